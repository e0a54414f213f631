"""Scores laid out so that they would hide from a sample of them: ranks, classes and plans against plain numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_stream.planner import draw_plan
from infobatch_stream.pruning.policies import make_policy
from infobatch_stream.pruning.policies.base import Position, ScoreView
from infobatch_stream.pruning.ranking import _PROBE, Ranking, _probe_places
from infobatch_stream.scores.blocks import MaskedScores
from tests.core.worlds import RUN_ID, all_codes, make_spec, make_table, rows_by_name

ODD_VALUES = [0.0, -0.0, 1e-45, -1e-45, 1e-38, 1.0, -1.0, 3.4028235e38, -3.4028235e38]
RANKING_POLICIES = [
    ("infobatch", {"threshold": "quantile:0.5"}),
    ("infobatch", {"prune_fraction": "0.3"}),
    ("infobatch", {"prune_fraction": "0.6"}),
    ("hard", {"prune_fraction": "0.3"}),
    ("levels", {"levels": "0.2:0.75,0.85:0.5"}),
]


@st.composite
def layouts(draw):
    """Scores (N,) of which those with a score lie periodically, in one piece, at one place, or nowhere."""
    num_samples = draw(st.integers(1, 3000))
    places = np.arange(num_samples)
    period = draw(st.integers(1, 200))
    kind = draw(st.sampled_from(["period", "all but a period", "piece", "one", "none", "all"]))
    if kind == "period":
        scored = places % period == draw(st.integers(0, period - 1))
    elif kind == "all but a period":
        scored = places % period != draw(st.integers(0, period - 1))
    elif kind == "piece":
        first = draw(st.integers(0, num_samples - 1))
        scored = (places >= first) & (places < first + period)
    else:
        scored = {"one": places == draw(st.integers(0, num_samples - 1)), "none": places < 0, "all": places >= 0}[kind]
    values = draw(st.sampled_from(["odd", "equal", "rising", "by period"]))
    score = {
        "odd": lambda: np.random.default_rng(period).choice(np.array(ODD_VALUES, np.float32), num_samples),
        "equal": lambda: np.full(num_samples, draw(st.sampled_from(ODD_VALUES)), np.float32),
        "rising": lambda: places.astype(np.float32) - 100,
        "by period": lambda: (places % period).astype(np.float32),
    }[values]()
    return np.where(scored, score, np.float32(np.nan))


@settings(deadline=None, derandomize=True, max_examples=150)
@given(layouts(), st.integers(0, 3), st.data())
def test_every_rank_of_any_layout(scores, small, data):
    ordered = np.sort(scores[~np.isnan(scores)] + np.float32(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("infobatch_stream.pruning.ranking._PROBE", 16)
        patch.setattr("infobatch_stream.pruning.ranking._COLLECT", [0, 1, 50, 1 << 23][small])
        ranking = Ranking(scores)
        assert ranking.num_scored == len(ordered)
        if len(ordered):
            rank = data.draw(st.integers(1, len(ordered)))
            assert ranking.smallest(rank) == ordered[rank - 1]
            assert ranking.largest(rank) == ordered[-rank]


@pytest.mark.parametrize(("policy", "own"), RANKING_POLICIES)
@pytest.mark.parametrize(
    "scored", [slice(1, None, 2), slice(None, None, 2), slice(2, None, 3), slice(77_777, 77_778), slice(0, 1)]
)
def test_a_plan_over_more_samples_than_a_probe_holds(policy, own, scored):
    num_samples = 100_000
    scores = np.full(num_samples, np.nan, np.float32)
    scores[scored] = np.random.default_rng(0).random(len(scores[scored])).astype(np.float32)
    plan = draw_plan(make_spec([num_samples], policy, **own), make_table(scores), run_id=RUN_ID, generation=1, epoch=3)
    places = np.flatnonzero(~np.isnan(scores))
    in_order = places[np.argsort(scores[places], kind="stable")]
    count = sum(row.size for row in plan.classes if row.name != "kept")
    assert np.array_equal(np.flatnonzero(all_codes(plan)), np.sort(in_order[:count])), "not the lowest"
    if len(places) == 1:
        return
    n, fraction = len(places), float(own.get("prune_fraction", 0))
    below_mean = int(np.count_nonzero(scores[places] < scores[places].astype(np.float64).mean()))
    wanted = round(fraction * num_samples)
    expected = {
        "infobatch": below_mean if 4 * wanted <= 3 * below_mean else min(n, -(-4 * wanted // 3)),
        "hard": min(wanted, n),
        "levels": -(-85 * n // 100) - 1,
    }[policy]
    assert count == (-(-n // 2) - 1 if "threshold" in own else expected)


@pytest.mark.parametrize(("policy", "own"), RANKING_POLICIES)
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_subset_with_a_period_hides_no_score(policy, own, first):
    scores = np.random.default_rng(1).random(70_000).astype(np.float32)
    mask = np.arange(70_000) % 3 == first
    masked = make_spec([70_000], policy, subset=mask, **own)
    plan = draw_plan(masked, make_table(scores), run_id=RUN_ID, generation=1, epoch=3)
    alone = draw_plan(
        make_spec([int(mask.sum())], policy, **own), make_table(scores[mask]), run_id=RUN_ID, generation=1, epoch=3
    )
    assert np.array_equal(all_codes(plan)[mask], all_codes(alone))
    assert rows_by_name(plan)["excluded"].size == int((~mask).sum())
    assert plan.threshold == alone.threshold


@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize(("policy", "own"), [("infobatch", {}), *RANKING_POLICIES])
def test_equal_scores_have_one_class_by_score_or_the_lowest_by_index(policy, own, value):
    num_samples = 70_001
    view = ScoreView(np.full(num_samples, value, np.float32), None, None, num_samples)
    answer = make_policy(policy, **own).classes(view, Position(epoch=1, epochs=10, anneal_epoch=8))
    members = np.flatnonzero(answer.codes(slice(0, num_samples)))
    assert np.array_equal(members, np.arange(len(members)))
    assert bool(len(members)) == ("prune_fraction" in own)


def test_a_probe_has_no_period_and_is_always_the_same():
    for num_samples in (1, _PROBE, _PROBE + 1, 10 * _PROBE + 3):
        places = _probe_places(num_samples)
        assert np.array_equal(places, _probe_places(num_samples))
        assert (np.diff(places) > 0).all()
        assert 0 <= places[0] <= places[-1] < num_samples
    for period in (2, 3, 5, 8, 10):
        phases = np.bincount(_probe_places(1_000_000) % period, minlength=period)
        assert phases.min() > 0.9 * phases.mean()


def test_scores_can_be_read_at_indices():
    scores = np.arange(10, dtype=np.float32)
    masked = MaskedScores(scores, scores < 5)
    assert np.array_equal(masked[np.array([1, 7, 4])], np.array([1, np.nan, 4], np.float32), equal_nan=True)
