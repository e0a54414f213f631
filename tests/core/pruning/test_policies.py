"""What a policy takes, refuses, and says about itself."""

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from infobatch_stream.errors import ConfigError
from infobatch_stream.planner import draw_plan
from infobatch_stream.pruning.policies import POLICIES, Hard, InfoBatch, Random, make_policy
from tests.core.worlds import RUN_ID, make_spec, make_table

EXAMPLES = [
    ("infobatch", {}),
    ("infobatch", {"prune_fraction": "0.3", "threshold": "quantile:0.4", "condition": "high"}),
    ("full", {}),
    ("random", {"prune_ratio": "0.25", "draw": "exact"}),
    ("hard", {"prune_fraction": "0.1", "rescale": False}),
    ("levels", {"levels": "0.20:0.75,0.85:0.5", "anneal": False}),
]


@pytest.mark.parametrize(("name", "settings"), EXAMPLES)
def test_params_make_the_same_policy_again(name, settings):
    policy = make_policy(name, **settings)
    assert make_policy(name, **policy.params()) == policy
    assert list(policy.params()) == sorted(policy.params())
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_every_policy_has_an_example_here():
    assert {name for name, _ in EXAMPLES} == set(POLICIES)


def test_defaults_are_the_papers():
    policy = make_policy("infobatch")
    assert policy.params() == {
        "anneal": True,
        "condition": "low",
        "draw": "bernoulli",
        "prune_ratio": "0.5",
        "rescale": True,
        "threshold": "mean",
    }
    assert not policy.biased


def test_policies_need_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; from infobatch_stream import InfoBatch, Random, Hard, Levels, Full; "
        "print(InfoBatch(prune_ratio=0.5, delta='0.875').params()['prune_ratio'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0.5\n"


def test_a_policy_without_unbiased_weights_is_biased():
    assert make_policy("hard").biased
    assert make_policy("random", rescale=False).biased
    assert not make_policy("levels", levels="0.2:0.5").biased


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("infobach", {}, "policy='infobach' is none of infobatch, full, random, hard, levels"),
        (
            "infobatch",
            {"ratio": "0.5"},
            "policy 'infobatch' has no setting 'ratio'; it has anneal, condition, delta, draw",
        ),
        ("infobatch", {"prune_ratio": None}, "prune_ratio=None is not a finite decimal number"),
        ("infobatch", {"anneal": 1}, "anneal must be a bool, got 1 (int)"),
        ("infobatch", {"draw": 1}, "draw must be a str, got 1 (int)"),
        ("infobatch", {"delta": "1.5"}, "delta=1.5 is outside [0, 1]"),
        ("infobatch", {"draw": "Exact"}, "draw='Exact' is neither"),
        ("infobatch", {"condition": "lower"}, "condition='lower' is neither 'low' nor 'high'"),
        ("infobatch", {"threshold": "median"}, "threshold='median' is neither 'mean' nor"),
        ("infobatch", {"threshold": "quantile:0"}, "threshold='quantile:0' is neither"),
        ("infobatch", {"threshold": "quantile:x"}, "threshold quantile='x' is not a finite decimal"),
        ("infobatch", {"prune_ratio": "0.5", "prune_fraction": "0.2"}, "exclude each other"),
        ("infobatch", {"prune_fraction": "0.2", "draw": "bernoulli"}, "leave draw unset, or draw='exact'"),
        ("infobatch", {"prune_fraction": "1"}, "prune_fraction=1 is outside [0, 1)"),
        ("random", {"prune_ratio": "1.5"}, "prune_ratio=1.5 is outside [0, 1)"),
        ("levels", {}, "levels='' is not 'quantile:ratio,"),
        ("levels", {"levels": "0.5:0.5,0.2:0.5"}, "quantiles must ascend"),
        ("levels", {"levels": "0:0.5"}, "a quantile is outside (0, 1]"),
        ("levels", {"levels": "0.5:1"}, "levels prune ratio=1 is outside [0, 1)"),
        ("levels", {"levels": ",".join(f"0.{i:03}:0.5" for i in range(1, 202))}, "201 entries; 200 are allowed"),
    ],
)
def test_invalid_settings_are_refused(name, settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_policy(name, **settings)


@pytest.mark.parametrize("policy", ["hard", "random", "infobatch"])
def test_an_epoch_always_has_a_sample(policy):
    spec = make_spec([10], policy, prune_fraction="0.99")  # ⌊9.9 + ½⌋ = 10
    plan = draw_plan(spec, make_table(np.arange(10, dtype=np.float32)), run_id=RUN_ID, generation=1, epoch=1)
    assert plan.kept >= 1
    assert plan.prune_requested == 10
    assert plan.pruned < 10


def test_one_threshold_has_one_text() -> None:
    assert InfoBatch(threshold="quantile:0.50") == InfoBatch(threshold="quantile:5e-1")
    assert Hard(threshold="quantile:0.50").params()["threshold"] == "quantile:0.5"


def test_a_schedule_may_be_a_numpy_array() -> None:
    points = [[0, 0.5], [1, 0.25]]
    assert Random(prune_schedule=np.array(points)) == Random(prune_schedule=points)  # type: ignore[arg-type]
