"""Policies by name: those of this package, and those that installed distributions register."""

import re
import textwrap
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from infobatch_stream.errors import ConfigError
from infobatch_stream.planner import draw_plan
from infobatch_stream.pruning import policies
from infobatch_stream.pruning.policies import (
    InfoBatch,
    Random,
    find_policy,
    make_policy,
    policy_names,
    require_registered,
)
from infobatch_stream.scores.table import ScoreTable
from infobatch_stream.wire.specs import policy_from_message, policy_message
from tests.core.worlds import RUN_ID, kept_mask, make_spec
from tests.policy_distribution import unpack_policy

HEAD = """
from dataclasses import dataclass
from typing import ClassVar
from infobatch_stream.pruning.policies import (
    KEPT, Classification, ColumnSpec, Full, Number, Pairs, Policy, one_class
)
"""
EVERY_TYPE = (
    HEAD
    + """
@dataclass(frozen=True, kw_only=True)
class Typed(Policy):
    name: ClassVar[str] = "typed"
    columns: ClassVar[tuple[ColumnSpec, ...]] = (
        ColumnSpec(name="zeal", dtype="uint8", fold="streak", condition="> 0.5"),
        ColumnSpec(name="calm", fold="previous", source="score"),
        ColumnSpec(name="mean", dtype="float64", fold="mean_square", ema_weight="0.1"),
    )
    follows_schedule: ClassVar[bool] = True
    flag: bool = False
    count: int = 3
    slope: float = 0.5
    word: str = "w"
    bounds: tuple[float, ...] = ()
    ratio: Number = "0.25"
    steps: Pairs = ""

    def classes(self, view, position):
        return Classification(codes=one_class, rows=(KEPT,))
"""
)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution's code and its entry points on sys.path."""
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    return lambda name, source, **entries: unpack_policy(tmp_path / "installed", name, source, entries)


def full_like(name):
    """Code of a policy that prunes nothing."""
    return (
        HEAD
        + f"""
@dataclass(frozen=True, kw_only=True)
class Mine(Policy):
    name: ClassVar[str] = {name!r}

    def classes(self, view, position):
        return Classification(codes=one_class, rows=(KEPT,))
"""
    )


def test_a_registered_policy_is_found_and_listed(install):
    install("dist_found", full_like("found_one"), found_one="Mine")
    assert policy_names() == ["infobatch", "full", "random", "hard", "levels", "found_one"]
    policy = make_policy("found_one", delta="0.5", rescale=False)
    assert (type(policy).__module__, policy.delta, policy.biased) == ("dist_found", "0.5", True)
    assert require_registered(policy) is policy
    with pytest.raises(ConfigError, match=r"policy='found_two' is none of infobatch, .*, levels, found_one$"):
        find_policy("found_two")


def test_nothing_is_imported_before_it_is_named(install):
    install("dist_broken", "raise RuntimeError('imported')", broken="Mine")
    assert make_policy("random").name == "random"
    assert "broken" in policy_names()
    with pytest.raises(ConfigError, match=r"dist_broken:Mine can't be imported: RuntimeError\('imported'\)"):
        find_policy("broken")


def test_a_registered_name_never_replaces_a_policy_of_this_package(install):
    install("dist_shadow", full_like("random"), random="Mine")
    assert find_policy("random") is Random
    assert policy_names().count("random") == 1


def test_two_distributions_of_one_name_are_refused(install):
    install("dist_twin_a", full_like("twin"), twin="Mine")
    install("dist_twin_b", full_like("twin"), twin="Mine")
    with pytest.raises(ConfigError, match="registered more than once: dist_twin_a:Mine, dist_twin_b:Mine; uninstall"):
        find_policy("twin")


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("other_name", full_like("its_own"), "has name='its_own'; it must be the entry point's name"),
        ("a_function", "def Mine(): ...", "does not extend infobatch_stream.pruning.policies.Policy"),
        ("a_class", "class Mine: ...", "does not extend infobatch_stream.pruning.policies.Policy"),
        ("undecorated", HEAD + "class Mine(Full):\n    name = 'undecorated'", "is not a frozen dataclass"),
        (
            "abstract",
            HEAD + "@dataclass(frozen=True)\nclass Mine(Policy):\n    name: ClassVar[str] = 'abstract'",
            "lacks classes",
        ),
        ("missing", "", "can't be imported: AttributeError"),
    ],
)
def test_an_entry_point_that_is_no_policy_is_refused(name, source, message, install):
    install(f"dist_{name}", source, **{name: "Mine"})
    with pytest.raises(ConfigError, match=rf"policy='{name}': dist_{name}:Mine {re.escape(message)}"):
        find_policy(name)


@dataclass(frozen=True, kw_only=True)
class Unregistered(Random):
    name: ClassVar[str] = "unregistered"


@dataclass(frozen=True, kw_only=True)
class Impostor(Random):
    """Under the name of another."""


def test_an_object_that_the_server_could_not_find_is_refused():
    with pytest.raises(ConfigError, match=r"policy='unregistered' is none of .*entry-point group .*never code"):
        require_registered(Unregistered())
    with pytest.raises(
        ConfigError, match=r"the name 'random' is that of .*policies\.random\.Random, not of .*Impostor"
    ):
        require_registered(Impostor())
    assert require_registered(InfoBatch()) == InfoBatch()


# ---- settings of every type


TYPED = {
    "flag": True,
    "count": 2**40,
    "slope": 0.1,
    "word": "",
    "bounds": (0.1, -2.0),
    "ratio": "0.30",
    "steps": [(0, 1.50)],
}


@pytest.mark.parametrize("own", [{}, TYPED, {"bounds": [1], "slope": 2, "ratio": 0.3}])
def test_settings_of_every_type_arrive_as_they_were_sent(own, install):
    install("dist_typed", EVERY_TYPE, typed="Typed")
    policy = make_policy("typed", delta="0.5", prune_schedule=[(0, 0.5)], **own)
    message = policy_message(policy, 9)
    again = policy_from_message(type(message).FromString(message.SerializeToString()), 9, "0.5")
    assert again == policy
    assert [type(value) for value in again.params().values()] == [type(value) for value in policy.params().values()]
    assert [column.name for column in message.columns] == ["calm", "mean", "zeal"]
    assert [column.name for column in policy.pushed_columns] == ["zeal", "mean"]


def test_settings_are_stored_in_one_form(install):
    install("dist_typed", EVERY_TYPE, typed="Typed")
    policy = make_policy("typed", **{**TYPED, "flag": np.True_, "count": np.int64(4), "slope": 1, "bounds": [1]})
    assert (policy.flag, policy.count, policy.slope, policy.bounds) == (True, 4, 1.0, (1.0,))
    assert [type(value) for value in (policy.flag, policy.count, policy.slope, policy.bounds[0])] == [
        *(bool, int, float, float)
    ]
    assert (policy.ratio, policy.steps) == ("0.3", "0:1.5")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"flag": 1}, "flag must be a bool, got 1 (int)"),
        ({"count": 1.0}, "count must be an int, got 1.0 (float)"),
        ({"count": True}, "count must be an int, got True (bool)"),
        ({"slope": "1"}, "slope must be a float, got '1' (str)"),
        ({"slope": False}, "slope must be a float, got False (bool)"),
        ({"slope": float("nan")}, "slope must be a float, got nan (float)"),
        ({"word": 1}, "word must be a str, got 1 (int)"),
        ({"bounds": 0.5}, "bounds must be a tuple of floats, got 0.5 (float)"),
        ({"bounds": ("a",)}, "bounds must be a tuple of floats, got ('a',) (tuple)"),
        ({"ratio": "half"}, "ratio='half' is not a finite decimal number"),
        ({"steps": [1]}, "steps=[1] is not a list of pairs of numbers"),
    ],
)
def test_a_setting_of_another_type_is_refused(own, message, install):
    install("dist_typed", EVERY_TYPE, typed="Typed")
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_policy("typed", **own)


def test_a_number_that_the_wire_can_not_hold_is_refused(install):
    install("dist_typed", EVERY_TYPE, typed="Typed")
    with pytest.raises(ConfigError, match="policy setting count=9223372036854775808 is outside int64"):
        policy_message(make_policy("typed", count=2**63), 9)


def test_a_schedule_that_a_policy_would_ignore_is_refused(install):
    install("dist_plain", full_like("plain_one"), plain_one="Mine")
    assert make_policy("plain_one").prune_schedule == ""
    with pytest.raises(ConfigError, match="policy 'plain_one' takes no prune_schedule: a class whose `classes`"):
        make_policy("plain_one", prune_schedule=[(0, 0.5)])


# ---- the example in the documentation


def test_the_example_in_the_documentation_is_a_whole_policy(install):
    block = re.search(r"A complete one:\n\n(.*?)\nand in the pyproject", policies.__doc__, re.DOTALL).group(1)
    assert len([line for line in block.splitlines() if line.strip()]) <= 20
    assert 'falling = "my_package.falling:Falling"' in policies.__doc__
    install("dist_example", textwrap.dedent(block), falling="Falling")
    spec = make_spec([100], "falling", ratio=0.9, prune_schedule=[(0, "0.5")], draw="exact")
    table = ScoreTable(100, spec.policy.columns)
    everyone = np.arange(100)
    for epoch, scores in enumerate((np.ones(100), np.r_[np.zeros(60), np.full(40, 2)])):
        table.update(epoch, everyone, scores.astype(np.float32))
    plan = draw_plan(spec, table, run_id=RUN_ID, generation=1, epoch=2)
    assert plan.pruned == 27  # 0.9 · 0.5 of 60
    assert kept_mask(plan)[60:].all()
