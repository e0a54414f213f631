"""⌊δ·C⌋ from the decimal string, and advice that a user can follow."""

import math
import re
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_stream.errors import ConfigError
from infobatch_stream.pruning.policies import Full, InfoBatch, Random, make_policy
from infobatch_stream.pruning.schedule import Schedule
from infobatch_stream.ratios import anneal_epoch, decimal_string, keep_lanes, prune_count
from infobatch_stream.scores.table import MAX_EPOCHS

DELTAS = st.decimals("0", "1", places=4).map(str)


@settings(deadline=None, derandomize=True)
@given(DELTAS, st.integers(1, MAX_EPOCHS))
def test_annealing_begins_at_the_exact_floor(delta, epochs):
    numerator = int(delta.replace(".", ""))
    assert anneal_epoch(delta, epochs) == numerator * epochs // 10_000


@pytest.mark.parametrize(
    ("delta", "epochs", "first"), [("0.29", 100, 29), ("0.7", 10, 7), ("0.57", 100, 57), (".5", 3, 1)]
)
def test_a_float_would_have_been_one_off(delta, epochs, first):
    assert anneal_epoch(delta, epochs) == first


@pytest.mark.parametrize(
    ("count", "fraction", "num_samples"),
    [(15, "0.145", 100), (50_000, "0.5", 100_000), (1, "0.5", 1), (0, "0.4999", 1)],
)
def test_half_a_sample_is_rounded_up(count, fraction, num_samples):
    assert prune_count(fraction, num_samples) == count


@pytest.mark.parametrize(
    ("ratio", "k"), [("0", 65536), ("0.5", 32768), ("0.75", 16384), ("0.3", 45875), ("0.99999", 1)]
)
def test_k_of_a_ratio(ratio, k):
    assert keep_lanes(ratio) == k


def test_a_float_stands_for_its_shortest_decimal():
    assert decimal_string(0.29, "x") == "0.29"
    assert decimal_string(1e-7, "x") == "0.0000001"
    assert decimal_string(" 0.50 ", "x") == "0.5"
    assert decimal_string(1, "x") == decimal_string(1.0, "x") == decimal_string("1.", "x") == "1"
    assert decimal_string("-0", "x") == decimal_string(0, "x") == "0"
    assert decimal_string(Decimal("1e2"), "x") == "100"
    assert decimal_string(np.float32(0.3), "x") == "0.3"
    assert decimal_string(np.int64(0), "x") == "0"


def test_a_numpy_float_is_a_float():
    assert decimal_string(np.float64(0.29), "x") == "0.29"


@pytest.mark.parametrize(
    "value", ["", "nan", "inf", "1/2", "0x1", "1_0", "１", True, float("nan"), "9" * 65, "1e999", None]
)
def test_what_is_no_decimal_number_is_refused(value):
    with pytest.raises(ConfigError, match="is not a finite decimal number"):
        decimal_string(value, "delta")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keep_lanes("1"), "prune_ratio=1 is outside [0, 1)"),
        (lambda: keep_lanes("-0.1"), "prune_ratio=-0.1 is outside"),
        (lambda: keep_lanes("0.999999"), "keeps less than 1 sample in 131,072"),
        (lambda: prune_count("1.0", 5), "prune_fraction=1.0 is outside"),
        (lambda: anneal_epoch("1.01", 5), "delta=1.01 is outside [0, 1]"),
        (lambda: Schedule(epochs=0, policy=InfoBatch()), "epochs=0 is outside [1, 65534]"),
        (lambda: Schedule(epochs=65_535, policy=InfoBatch()), "epochs=65535 is outside"),
        (lambda: InfoBatch(delta="x"), "delta='x' is not a finite decimal"),
    ],
)
def test_errors_name_the_value(call, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        call()


def pruned_epochs(schedule):
    first = 1 if schedule.policy.needs_scores else 0
    return max(0, min(schedule.anneal_epoch, schedule.epochs) - first)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    DELTAS,
    st.one_of(st.integers(1, 40), st.integers(1, MAX_EPOCHS)),
    st.booleans(),
    st.sampled_from(["infobatch", "random"]),
)
def test_advice_is_given_where_it_is_due_and_its_delta_works(delta, epochs, anneal, name):
    policy = make_policy(name, anneal=anneal, delta=delta)
    schedule = Schedule(epochs=epochs, policy=policy)
    advice = schedule.advice()
    prunes = pruned_epochs(schedule) > 0
    anneals = not anneal or schedule.anneal_epoch < epochs
    assert (advice is None) == (prunes and anneals)
    if advice is None:
        return
    named = re.search(r"; delta=(\S+)", advice)
    if named is None:
        more = int(re.search(r"at least (\d+) epochs", advice).group(1))
        assert epochs < more
        better = Schedule(epochs=more, policy=replace(policy, delta=f"{(more - 1) / more:.4f}9"))
    else:
        better = Schedule(epochs=epochs, policy=replace(policy, delta=named.group(1)))
    assert pruned_epochs(better) > 0
    assert not anneal or better.anneal_epoch < better.epochs
    assert better.advice() is None


@pytest.mark.parametrize("epochs", [3, 7, 200, 1001, 65_534])
def test_the_advised_delta_prunes_one_epoch_and_is_the_least_of_its_digits(epochs):
    advice = Schedule(epochs=epochs, policy=InfoBatch(delta="0")).advice()
    named = re.search(r"; delta=(\S+) prunes", advice).group(1)
    assert anneal_epoch(named, epochs) == 2
    step = Fraction(1, 10 ** len(named.partition(".")[2]))
    assert math.floor((Fraction(named) - step) * epochs) < 2


def test_full_needs_no_advice():
    assert Schedule(epochs=1, policy=Full(delta="1")).advice() is None


def test_one_epoch_of_random_gets_advice_on_epochs():
    advice = Schedule(epochs=1, policy=Random()).advice()
    assert "scores" not in advice
    assert "at least 2 epochs" in advice
