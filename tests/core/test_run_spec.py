"""What makes a run a run, and what tells two of them apart."""

import re
from dataclasses import replace

import numpy as np
import pytest

from infobatch_stream.errors import ConfigError
from infobatch_stream.plan.order_params import OrderChoice, OrderParams
from infobatch_stream.pruning.policies import make_policy
from infobatch_stream.run_spec import check_run_name
from tests.core.worlds import make_spec


@pytest.mark.parametrize("name", ["a", "0", "imagenet-r50.v2_x", "A" * 128])
def test_names_that_can_name_a_run(name):
    assert check_run_name(name) == name


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a/b", "a b", "..", "é", "a\n", "A" * 129])
def test_names_that_could_be_a_path_or_a_puzzle_are_refused(name):
    with pytest.raises(ConfigError, match="can't name a run"):
        check_run_name(name)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([], "they must be int64 (S,) with S ≥ 1"),
        ([3, -1, 5], "shard 1 has -1 samples"),
        ([0, 0], "2 shards hold no sample at all"),
        ([2**62, 2**62], "the sizes of 2 shards overflow int64 when summed"),
        ([2**63 - 1, 2**63 - 1, 2**63 - 1], "the sizes of 3 shards overflow int64 when summed"),
    ],
)
def test_invalid_shard_sizes_are_refused(sizes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_spec(sizes, order={"window_shards": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"manifest_fingerprint": b"x"}, "manifest fingerprint has 1 bytes, not 32"),
        ({"seed": 2**64}, "seed=18446744073709551616 is outside [0, 2**64)"),
        ({"seed": -1}, "seed=-1 is outside"),
        ({"score_name": ""}, "score_name='' must have 1 to 128 characters"),
        ({"epochs": 0}, "epochs=0 is outside [1, 65534]"),
        ({"subset": np.ones(3, bool)}, "subset is bool (3,); it must be bool (8,)"),
        ({"subset": np.ones(8, np.uint8)}, "subset is uint8 (8,)"),
        ({"subset": np.zeros(8, bool)}, "subset has no sample in it"),
        ({"shard_sizes": np.array([8], np.int32)}, "shard sizes are int32 (1,)"),
    ],
)
def test_other_invalid_values_are_refused(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        replace(make_spec([3, 5]), **change)


def test_equal_specs_do_not_differ_whatever_their_order():
    assert make_spec([3, 5]).differences(make_spec([3, 5], order={"lanes": 4})) == []


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (make_spec([3, 5], seed=4), "seed: the run has 0, this job asks for 4"),
        (make_spec([3, 5], epochs=7), "epochs: the run has 100, this job asks for 7"),
        (make_spec([3, 5], delta="0.5"), "delta: the run has 0.875, this job asks for 0.5"),
        (make_spec([3, 5], prune_ratio="0.25"), "prune_ratio: the run has 0.5, this job asks for 0.25"),
        (replace(make_spec([3, 5]), score_name="el2n"), "score_name: the run has loss, this job asks for el2n"),
    ],
)
def test_a_difference_has_its_name_and_both_values(other, line):
    assert make_spec([3, 5]).differences(other) == [line]


def test_every_difference_has_a_line():
    mine, other = make_spec([3, 5]), make_spec([5, 3], "random", prune_fraction="0.3", subset=np.arange(8) < 4)
    names = {line.partition(":")[0] for line in mine.differences(other)}
    assert names == {
        "shard sizes",
        "policy",
        "prune_ratio",
        "prune_fraction",
        "threshold",
        "draw",
        "subset",
    }


def test_a_choice_takes_the_rest_from_the_run_and_conflicts_where_it_is_set():
    stored = OrderParams(lanes=8, stripe=32, window_shards=4)
    assert OrderChoice().conflicts(stored) == []
    assert OrderChoice(lanes=8).conflicts(stored) == []
    assert OrderChoice(lanes=2, stripe=32).conflicts(stored) == ["lanes: the run has 8, this job asks for 2"]
    assert OrderChoice(lanes=2).over(stored) == replace(stored, lanes=2)


@pytest.mark.parametrize(
    ("num_samples", "num_shards", "lanes", "batch", "expected"),
    [
        (1_281_167, 1000, 8, 1024, (8, 128, 1000)),
        (10**9, 10**5, 8, 4096, (8, 512, 419)),
        (10**8, 10, 3, 2, (3, 1, 1)),
        (5, 5, 1, 7, (1, 7, 5)),
    ],
)
def test_default_order(num_samples, num_shards, lanes, batch, expected):
    order = OrderParams.default(num_samples=num_samples, num_shards=num_shards, lanes=lanes, global_batch=batch)
    assert (order.lanes, order.stripe, order.window_shards, order.run_samples) == (*expected, 1)


@pytest.mark.parametrize("field", ["lanes", "stripe", "window_shards", "run_samples"])
def test_order_numbers_are_at_least_one(field):
    with pytest.raises(ConfigError, match=f"{field}=0 must be at least 1"):
        OrderParams(**{"lanes": 1, "stripe": 1, "window_shards": 1, "run_samples": 1, field: 0})


def test_the_mask_is_known_by_its_digest():
    one, other = make_spec([8], subset=np.arange(8) < 4), make_spec([8], subset=np.arange(8) < 5)
    assert (one.subset_samples, other.subset_samples) == (4, 5)
    assert one.subset_sha256 != other.subset_sha256
    assert make_spec([8]).subset_sha256 == b""


def test_policy_and_schedule_make_the_position():
    spec = make_spec([8], epochs=10, delta="0.7")
    assert spec.schedule.position(3).anneal_epoch == 7
    assert make_policy("full").needs_scores is False
