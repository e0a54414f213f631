"""Eq. 3's mean to the bit, and quantiles, against slow arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_stream.pruning.ranking import Ranking, _probe_places
from infobatch_stream.pruning.threshold import BLOCK_SAMPLES, mean_threshold, quantile_rank, quantile_threshold
from infobatch_stream.scores.blocks import MaskedScores
from tests.core.worlds import some_scores

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=False)


def slow_mean_threshold(scores):
    """Appendix A, line by line, in pure Python."""
    scored = [float(score) for score in scores if not math.isnan(score)]
    if not scored:
        return None
    sums = []
    for start in range(0, len(scores), BLOCK_SAMPLES):
        block = [0.0 if math.isnan(score) else float(score) for score in scores[start : start + BLOCK_SAMPLES].tolist()]
        block += [0.0] * (BLOCK_SAMPLES - len(block))
        while len(block) > 1:
            half = len(block) // 2
            block = [a + b for a, b in zip(block[:half], block[half:], strict=True)]
        sums += block
    mean = math.fsum(sums) / len(scored)
    t = np.float32(mean)
    while Fraction(float(t)) < Fraction(mean):
        t = np.nextafter(t, np.float32(np.inf))
    return min(float(t), max(scored))


@pytest.mark.parametrize("num_samples", [1, 7, 65_536, 65_537, 200_001])
def test_the_mean_is_appendix_a_to_the_bit(num_samples):
    scores = some_scores(num_samples, seed=num_samples) * np.float32(1e3)
    found = mean_threshold(scores)
    assert found.value == slow_mean_threshold(scores)
    assert found.num_scored == np.count_nonzero(~np.isnan(scores))


def test_the_mean_is_that_of_exact_arithmetic():
    scores = some_scores(100_000, seed=3)
    exact = sum(map(Fraction, scores[~np.isnan(scores)].tolist())) / int(np.count_nonzero(~np.isnan(scores)))
    found = mean_threshold(scores).value
    assert Fraction(found) >= exact
    assert abs(Fraction(found) - exact) <= Fraction(float(np.spacing(np.float32(found))))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(FLOATS, min_size=1, max_size=40))
def test_mean_of_any_scores(values):
    scores = np.array(values, np.float32)
    assert mean_threshold(scores).value == slow_mean_threshold(scores)


@pytest.mark.parametrize(
    ("scores", "threshold"),
    [
        # Added as (3e38 + 1) + (1 - 3e38), where both ones are lost; an exact sum gives 0.5.
        ([3e38, 1, 1, -3e38], 0.0),
        ([3e38, 1, -3e38, 1], 0.5),
        ([-3e38, -3e38, 3e38, 3e38], 0.0),
        ([3e38, 3e38, -3e38], np.float32(1e38)),
        ([3.4028235e38, 3.4028235e38, 1], np.float32(2.2685490e38)),
        ([3e38] + [1.0] * (BLOCK_SAMPLES - 1) + [-3e38], 0.0),
        ([1.0] * BLOCK_SAMPLES + [3e38] + [0.0] * (BLOCK_SAMPLES - 1) + [-3e38], np.float32(65536 / 131073)),
    ],
)
def test_scores_that_cancel_are_added_in_the_order_of_appendix_a(scores, threshold):
    scores = np.array(scores, np.float32)
    assert mean_threshold(scores).value == slow_mean_threshold(scores)
    assert mean_threshold(scores).value == pytest.approx(threshold, rel=2e-7, abs=0)


HUGE = st.sampled_from([3e38, -3e38, 3.4028235e38, -3.4028235e38])


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.one_of(HUGE, FLOATS, st.floats(-10, 10, width=32)), min_size=1, max_size=60))
def test_the_mean_differs_from_the_exact_one_by_a_share_of_the_magnitudes(values):
    scores = np.array(values, np.float32)
    threshold = mean_threshold(scores).value
    assert threshold == slow_mean_threshold(scores)
    scored = [Fraction(float(score)) for score in scores if not math.isnan(score)]
    if scored:
        exact = sum(scored) / len(scored)
        error = Fraction(2e-15) * sum(map(abs, scored)) / len(scored)
        if threshold > np.finfo(np.float32).min:
            below = Fraction(float(np.nextafter(np.float32(threshold), np.float32(-np.inf))))
            assert below < exact + error
        assert Fraction(threshold) >= min(exact - error, max(scored))


def test_equal_scores_have_none_below_their_mean():
    for value in (0.1, 1 / 3, 3.4e38, 1e-45, -0.0):
        scores = np.full(100_003, value, np.float32)
        assert mean_threshold(scores).value == np.float32(value)
        assert not (scores < np.float32(mean_threshold(scores).value)).any()


def test_the_threshold_is_at_most_the_largest_score():
    # The mean is no float32 and lies above all but one score; rounding up must not pass that one.
    scores = np.array([1.0, np.nextafter(np.float32(1), np.float32(2))], np.float32)
    assert mean_threshold(scores).value == scores[1]
    assert mean_threshold(np.array([3.4028235e38] * 3, np.float32)).value == np.float32(3.4028235e38)


def test_nothing_scored_has_no_threshold():
    scores = np.full(70_000, np.nan, np.float32)
    assert mean_threshold(scores) == (None, 0)
    assert quantile_threshold(scores, Fraction(1, 2)) == (None, 0)


def test_a_threshold_is_never_minus_zero():
    scores = np.full(70_000, -0.0, np.float32)
    assert math.copysign(1, mean_threshold(scores).value) == 1
    assert math.copysign(1, quantile_threshold(scores, Fraction(1, 2)).value) == 1


def test_a_masked_score_counts_as_unscored():
    scores = some_scores(100_000, seed=9)
    mask = np.arange(100_000) % 3 == 0
    masked = MaskedScores(scores, mask)
    copied = np.where(mask, scores, np.float32(np.nan))
    assert mean_threshold(masked) == mean_threshold(copied)
    assert quantile_threshold(masked, Fraction(1, 3)) == quantile_threshold(copied, Fraction(1, 3))
    assert np.array_equal(masked[17:99], copied[17:99], equal_nan=True)


@pytest.mark.parametrize(
    ("quantile", "num_scored", "rank"), [("0.29", 100, 29), ("0.7", 10, 7), ("1", 10, 10), ("0.0001", 10, 1)]
)
def test_rank_of_a_quantile_is_exact(quantile, num_scored, rank):
    assert quantile_rank(Fraction(quantile), num_scored) == rank


@settings(deadline=None, derandomize=True, max_examples=80)
@given(st.lists(FLOATS, min_size=1, max_size=60), st.fractions(min_value=0, max_value=1))
def test_a_quantile_is_a_place_in_the_sorted_scores(values, quantile):
    scores = np.array(values, np.float32)
    ordered = sorted(value for value in scores.tolist() if not math.isnan(value))
    if not quantile or not ordered:
        return
    assert quantile_threshold(scores, quantile).value == ordered[max(1, math.ceil(quantile * len(ordered))) - 1]


@settings(deadline=None, derandomize=True, max_examples=80)
@given(st.lists(FLOATS, min_size=1, max_size=60), st.data())
def test_every_rank_from_either_end(values, data):
    scores = np.array(values, np.float32)
    ordered = sorted(value for value in scores.tolist() if not math.isnan(value))
    ranking = Ranking(scores)
    assert ranking.num_scored == len(ordered)
    if ordered:
        rank = data.draw(st.integers(1, len(ordered)))
        assert ranking.smallest(rank) == ordered[rank - 1]
        assert ranking.largest(rank) == ordered[-rank]


@pytest.mark.parametrize("limit", [0, 1, 100])
@pytest.mark.parametrize("kind", ["spread", "equal", "two values", "sorted", "misleading probe"])
def test_ranks_where_a_probe_says_little_or_the_candidates_are_too_many(monkeypatch, limit, kind):
    monkeypatch.setattr("infobatch_stream.pruning.ranking._COLLECT", limit)
    monkeypatch.setattr("infobatch_stream.pruning.ranking._PROBE", 64)
    scores = np.random.default_rng(1).normal(size=5000).astype(np.float32)
    if kind == "equal":
        scores[:] = -2.5
    elif kind == "two values":
        scores = np.where(scores < 0, np.float32(-1), np.float32(0))
    elif kind == "sorted":
        scores.sort()
    elif kind == "misleading probe":
        scores[_probe_places(5000)] = 1e30
    scores[3::7] = np.nan
    ordered = np.sort(scores[~np.isnan(scores)])
    ranking = Ranking(scores)
    for rank in (1, 2, 64, len(ordered) // 2, len(ordered) - 1, len(ordered)):
        assert ranking.smallest(rank) == ordered[rank - 1]
