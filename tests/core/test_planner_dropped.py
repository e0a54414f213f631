"""Plans that leave out what the pipeline dropped: a class of its own, and everything else as if N were what is left."""

import numpy as np
import pytest

from infobatch_stream.planner import draw_plan
from infobatch_stream.scores.table import ScoreTable
from tests.core.unbiased import check_unbiased, random_directions, weighted_sum
from tests.core.worlds import RUN_ID, all_codes, kept_mask, make_spec, make_table, rows_by_name, some_scores

NUM_SAMPLES = 1009
SIZES = [400, 0, 609]
SCORES = some_scores(NUM_SAMPLES, seed=5)
DROPPED = np.random.default_rng(3).random(NUM_SAMPLES) < 0.6
MASK = np.random.default_rng(8).random(NUM_SAMPLES) < 0.6


def table_with(dropped=DROPPED, scores=SCORES) -> ScoreTable:
    table = make_table(scores)
    table.dropped.add(np.flatnonzero(dropped))
    return table


def draw(spec, table, epoch=3, generation=1, without_dropped=True):
    return draw_plan(spec, table, run_id=RUN_ID, generation=generation, epoch=epoch, without_dropped=without_dropped)


POLICIES = [("infobatch", {}), ("infobatch", {"prune_fraction": "0.3"}), ("levels", {"levels": "0.5:0.9,1:0.5"})]
POLICIES += [("random", {"prune_ratio": "0.4", "draw": "exact"}), ("full", {})]


@pytest.mark.parametrize(("policy", "settings"), POLICIES)
@pytest.mark.parametrize("epoch", [0, 3, 99])
def test_the_plan_is_the_masks_plan_under_another_name(policy, settings, epoch):
    plan = draw(make_spec(SIZES, policy, **settings), table_with(), epoch)
    masked = draw(make_spec(SIZES, policy, subset=~DROPPED, **settings), make_table(SCORES), epoch)
    assert np.array_equal(plan.keep_bits, masked.keep_bits)
    assert np.array_equal(plan.class_plane, masked.class_plane)
    assert [row.name for row in plan.classes[:-1]] == [row.name for row in masked.classes[:-1]]
    assert (plan.classes[-1].name, plan.classes[-1].size, plan.classes[-1].kept) == ("dropped", DROPPED.sum(), 0)
    for name in ("threshold", "low_share", "never_scored", "prune_requested", "biased", "unpruned", "kept", "pruned"):
        assert getattr(plan, name) == getattr(masked, name), name
    assert plan.dropped == DROPPED.sum()
    assert not kept_mask(plan)[DROPPED].any()


def test_a_fraction_is_of_what_is_left():
    plan = draw(make_spec(SIZES, prune_fraction="0.25"), table_with())
    left = int((~DROPPED).sum())
    assert plan.prune_requested == plan.pruned == (25 * left + 50) // 100
    assert plan.kept + plan.pruned == left


def test_the_mask_and_the_dropped_are_two_classes_and_the_mask_comes_first():
    plan = draw(make_spec(SIZES, subset=MASK), table_with())
    rows = rows_by_name(plan)
    assert (rows["excluded"].size, rows["dropped"].size) == ((~MASK).sum(), (MASK & DROPPED).sum())
    names = [row.name for row in plan.classes]
    assert np.array_equal(all_codes(plan) == names.index("excluded"), ~MASK)
    assert np.array_equal(all_codes(plan) == names.index("dropped"), MASK & DROPPED)
    assert plan.kept + plan.pruned == (MASK & ~DROPPED).sum()


@pytest.mark.parametrize("dropped", [np.zeros(NUM_SAMPLES, bool), DROPPED])
def test_a_job_that_fills_has_the_plan_of_before(dropped):
    spec = make_spec(SIZES)
    plan = draw(spec, table_with(dropped), without_dropped=False)
    assert [row.name for row in plan.classes] == ["kept", "low"]
    assert np.array_equal(plan.keep_bits, draw(spec, make_table(SCORES)).keep_bits)


@pytest.mark.statistics
@pytest.mark.parametrize(("policy", "settings"), POLICIES[:3])
def test_the_weighted_sum_is_unbiased_over_what_is_left(policy, settings):
    directions, spec, table = random_directions(NUM_SAMPLES), make_spec(SIZES, policy, **settings), table_with()
    sums = []
    for generation in range(1, 1001):
        plan = draw(spec, table, generation=generation)
        kept = plan.kept_between(0, NUM_SAMPLES)
        sums.append(weighted_sum(directions, kept, plan.weights(kept)))
    check_unbiased(np.array(sums), directions[~DROPPED].sum(axis=0))
