"""Plans are the paper's Eq. 4: who is in the class, what share of it stays, with which weight, and until when."""

import math
import tracemalloc
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_stream.plan.epoch_plan import full_plan_id, kept_by_shard, unpruned_plan
from infobatch_stream.planner import draw_plan
from infobatch_stream.pruning.policies import KEPT, Classification, ClassRow, Policy
from infobatch_stream.scores.table import ScoreTable
from tests.core.pruning.test_threshold import slow_mean_threshold
from tests.core.worlds import RUN_ID, all_codes, kept_mask, make_spec, make_table, rows_by_name, some_scores

NUM_SAMPLES = 1009
SIZES = [400, 0, 609]
SCORES = some_scores(NUM_SAMPLES, seed=5)
MASK = np.random.default_rng(8).random(NUM_SAMPLES) < 0.6


def draw(spec, scores=SCORES, epoch=3, generation=1):
    return draw_plan(spec, make_table(scores), run_id=RUN_ID, generation=generation, epoch=epoch)


def class_members(plan, name):
    """bool (N,)."""
    return all_codes(plan) == [row.name for row in plan.classes].index(name)


def slow_lowest(scores, count, condition="low"):
    """The `count` lowest or highest by Python's sort, ties by index, bool (N,)."""
    sign = 1 if condition == "low" else -1
    scored = [index for index, score in enumerate(scores.tolist()) if not math.isnan(score)]
    members = np.zeros(len(scores), bool)
    members[sorted(scored, key=lambda index: (sign * scores[index], index))[:count]] = True
    return members


# ---- the class


def test_the_low_class_is_eq_4():
    plan = draw(make_spec(SIZES))
    edge = slow_mean_threshold(SCORES)
    assert plan.threshold == edge
    low = np.array([score < edge for score in SCORES.tolist()])
    assert np.array_equal(class_members(plan, "low"), low)
    assert kept_mask(plan)[~low].all()
    assert plan.low_share == np.float32(low.sum() / np.count_nonzero(~np.isnan(SCORES)))


def test_the_high_class_is_above_the_mean():
    plan = draw(make_spec(SIZES, condition="high"))
    assert np.array_equal(class_members(plan, "high"), np.float32(slow_mean_threshold(SCORES)) < SCORES)


@pytest.mark.parametrize("condition", ["low", "high"])
def test_a_score_that_equals_the_threshold_is_kept(condition):
    scores = np.array([1, 2, 2, 2, 3, np.nan], np.float32)
    plan = draw(make_spec([6], condition=condition), scores)
    assert plan.threshold == 2
    assert np.flatnonzero(class_members(plan, condition)).tolist() == ([0] if condition == "low" else [4])


def test_equal_scores_prune_nothing():
    plan = draw(make_spec([99]), np.full(99, 0.1, np.float32))
    assert (plan.kept, plan.pruned) == (99, 0)


def test_samples_without_a_score_are_never_pruned():
    for policy, settings_ in [("infobatch", {}), ("hard", {}), ("levels", {"levels": "0.5:0.9,1:0.9"})]:
        plan = draw(make_spec(SIZES, policy, **settings_))
        assert kept_mask(plan)[np.isnan(SCORES)].all()
        assert (plan.weights(np.flatnonzero(np.isnan(SCORES))) == 1).all()
        assert plan.never_scored == np.isnan(SCORES).sum()


def test_epoch_0_keeps_everything_that_has_no_score():
    plan = draw(make_spec(SIZES), np.full(NUM_SAMPLES, np.nan, np.float32), epoch=0)
    assert (plan.kept, plan.threshold, plan.low_share, plan.unpruned) == (NUM_SAMPLES, None, None, False)


def test_a_run_that_starts_from_anothers_scores_prunes_in_epoch_0():
    assert draw(make_spec(SIZES), epoch=0).pruned > 0


def test_random_ignores_scores_and_prunes_from_epoch_0():
    unscored = np.full(NUM_SAMPLES, np.nan, np.float32)
    one, other = draw(make_spec(SIZES, "random"), epoch=0), draw(make_spec(SIZES, "random"), unscored, epoch=0)
    assert np.array_equal(one.keep_bits, other.keep_bits)
    assert 0 < one.pruned < NUM_SAMPLES
    assert one.threshold is None


def test_a_quantile_is_the_threshold_where_asked():
    plan = draw(make_spec(SIZES, threshold="quantile:0.29"))
    ordered = np.sort(SCORES[~np.isnan(SCORES)])
    edge = ordered[math.ceil(Fraction("0.29") * len(ordered)) - 1]
    assert plan.threshold == edge
    assert np.array_equal(class_members(plan, "low"), edge > SCORES)


@pytest.mark.parametrize("condition", ["low", "high"])
def test_a_level_is_the_first_whose_quantile_exceeds_the_score(condition):
    levels = [("0.2", "0.75"), ("0.5", "0"), ("0.85", "0.5")]
    spec = make_spec(SIZES, "levels", levels=",".join(map(":".join, levels)), condition=condition)
    plan = draw(spec)
    sign = 1 if condition == "low" else -1
    ordered = np.sort(sign * SCORES[~np.isnan(SCORES)])
    edges = [ordered[math.ceil(Fraction(q) * len(ordered)) - 1] for q, _ in levels]
    expected = [next((i for i, edge in enumerate(edges, 1) if sign * score < edge), 0) for score in SCORES]
    assert all_codes(plan).tolist() == expected
    assert [row.keep_65536 for row in plan.classes] == [65536, 16384, 65536, 32768]
    assert plan.threshold == sign * edges[-1]
    assert len({row.name for row in plan.classes}) == 4


def test_as_many_levels_as_are_allowed():
    levels = ",".join(f"{number / 200:.3f}:{number / 400:.4f}" for number in range(1, 201))
    plan = draw(make_spec(SIZES, "levels", levels=levels), epoch=1)
    assert sum(row.size for row in plan.classes) == NUM_SAMPLES
    for code, row in enumerate(plan.classes):
        assert row.kept == np.count_nonzero(kept_mask(plan) & (all_codes(plan) == code))


# ---- what stays, and its weight


@given(st.decimals("0", "0.75", places=6))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_weight_is_one_over_the_share_kept(ratio):
    row = rows_by_name(draw(make_spec(SIZES, prune_ratio=str(ratio))))["low"]
    assert row.weight == np.float32(65536 / row.keep_65536)
    assert abs(Fraction(row.weight) * (1 - Fraction(ratio)) - 1) <= Fraction(1, 2**15)


@pytest.mark.parametrize("ratio", ["0", "0.1", "0.5", "0.7", "0.99"])
def test_an_exact_draw_keeps_m_of_n_with_weight_n_over_m(ratio):
    plan = draw(make_spec(SIZES, prune_ratio=ratio, draw="exact"))
    row = rows_by_name(plan)["low"]
    k = math.floor(65536 * (1 - Fraction(ratio)) + Fraction(1, 2))
    assert row.kept == max(1, math.floor(Fraction(k, 65536) * row.size + Fraction(1, 2)))
    assert row.kept == np.count_nonzero(kept_mask(plan) & class_members(plan, "low"))
    assert row.weight == np.float32(row.size / row.kept)


@pytest.mark.parametrize("settings_", [{}, {"draw": "exact"}, {"prune_fraction": "0.3"}])
def test_without_rescaling_all_weights_are_1_and_the_plan_says_biased(settings_):
    plain, scaled = draw(make_spec(SIZES, rescale=False, **settings_)), draw(make_spec(SIZES, **settings_))
    assert np.array_equal(plain.keep_bits, scaled.keep_bits)
    assert (plain.weights(np.arange(NUM_SAMPLES)) == 1).all()
    assert (plain.biased, scaled.biased) == (True, False)


def test_another_seed_epoch_or_generation_is_another_draw_and_the_same_is_the_same():
    plans = [
        draw(make_spec(SIZES)),
        draw(make_spec(SIZES, seed=1)),
        draw(make_spec(SIZES), epoch=4),
        draw(make_spec(SIZES), generation=2),
    ]
    assert len({plan.keep_bits.tobytes() for plan in plans}) == 4
    assert np.array_equal(draw(make_spec(SIZES)).keep_bits, plans[0].keep_bits)


def test_drawing_touches_neither_the_table_nor_the_mask():
    table, mask = make_table(SCORES), MASK.copy()
    draw_plan(make_spec(SIZES, subset=mask), table, run_id=RUN_ID, generation=1, epoch=3)
    assert np.array_equal(table.score, SCORES, equal_nan=True)
    assert not table.stamp.any()
    assert not table.visits.any()
    assert np.array_equal(mask, MASK)


# ---- a fixed share of all samples


@pytest.mark.parametrize("condition", ["low", "high"])
@pytest.mark.parametrize("fraction", ["0", "0.001", "0.1", "0.29", "0.4", "0.5", "0.7", "0.9", "0.999"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_a_fraction_prunes_that_many(fraction, condition, mask):
    spec = make_spec(SIZES, prune_fraction=fraction, condition=condition, subset=mask)
    plan = draw(spec)
    scores = SCORES if mask is None else np.where(mask, SCORES, np.float32(np.nan))
    num_scored = np.count_nonzero(~np.isnan(scores))
    wanted = math.floor(Fraction(fraction) * (NUM_SAMPLES if mask is None else int(mask.sum())) + Fraction(1, 2))
    edge = np.float32(slow_mean_threshold(scores))
    cut = scores < edge if condition == "low" else scores > edge
    if wanted <= Fraction(3, 4) * int(cut.sum()):
        members, pruned = cut, wanted
    elif math.ceil(wanted / Fraction(3, 4)) <= num_scored:
        members, pruned = slow_lowest(scores, math.ceil(wanted / Fraction(3, 4)), condition), wanted
    else:
        members, pruned = ~np.isnan(scores), math.floor(Fraction(3, 4) * num_scored)
    row = rows_by_name(plan)[condition]
    assert np.array_equal(class_members(plan, condition), members)
    assert (plan.prune_requested, plan.pruned, row.size - row.kept) == (wanted, pruned, pruned)
    assert row.weight == np.float32(row.size / row.kept)
    assert plan.low_share == np.float32(cut.sum() / num_scored)


def test_the_lowest_are_chosen_by_index_among_equal_scores():
    scores = np.array([2, 1, 1, 1, 1, 3, 1, 9], np.float32)
    plan = draw(make_spec([8], prune_fraction="0.5"), scores)  # 4 of 8: the class has ⌈4 / 0.75⌉ = 6
    assert np.flatnonzero(class_members(plan, "low")).tolist() == [0, 1, 2, 3, 4, 6]
    plan = draw(make_spec([8], prune_fraction="0.25"), np.array([5, 5, 5, 5, 5, 5, 5, 5], np.float32))
    assert np.flatnonzero(class_members(plan, "low")).tolist() == [0, 1, 2]


def test_random_prunes_a_fraction_of_all_exactly():
    plan = draw(make_spec(SIZES, "random", prune_fraction="0.29"))
    assert plan.pruned == plan.prune_requested == 293  # ⌊0.29 · 1009 + ½⌋


# ---- hard


@pytest.mark.parametrize("condition", ["low", "high"])
def test_hard_drops_the_class_and_says_biased(condition):
    plan = draw(make_spec(SIZES, "hard", condition=condition))
    edge = np.float32(slow_mean_threshold(SCORES))
    gone = edge > SCORES if condition == "low" else edge < SCORES
    assert np.array_equal(kept_mask(plan), ~gone)
    assert plan.biased
    assert (plan.weights(np.flatnonzero(~gone)) == 1).all()


@pytest.mark.parametrize("condition", ["low", "high"])
def test_hard_drops_the_lowest_fraction(condition):
    plan = draw(make_spec(SIZES, "hard", prune_fraction="0.3", condition=condition))
    assert np.array_equal(kept_mask(plan), ~slow_lowest(SCORES, 303, condition))
    assert plan.prune_requested == plan.pruned == 303


# ---- until when


@pytest.mark.parametrize(
    ("delta", "epochs", "first_unpruned"),
    [("0.29", 100, 29), ("0.7", 10, 7), ("0.57", 100, 57), ("0.875", 200, 175), ("1", 5, 5), ("0.875", 3, 2)],
)
def test_unpruned_from_exactly_delta_times_epochs_on(delta, epochs, first_unpruned):
    spec = make_spec(SIZES, delta=delta, epochs=epochs, draw="exact")
    for epoch in {0, first_unpruned - 1, first_unpruned, epochs - 1} - {epochs}:
        plan = draw(spec, epoch=epoch)
        assert plan.unpruned == (epoch >= first_unpruned)
        assert (plan.pruned == 0) == plan.unpruned
        if plan.unpruned:
            assert (plan.weights(np.arange(NUM_SAMPLES)) == 1).all()
            assert plan.kept == NUM_SAMPLES


def test_without_annealing_the_last_epoch_is_pruned():
    assert draw(make_spec(SIZES, epochs=5, anneal=False), epoch=4).pruned > 0
    assert draw(make_spec(SIZES, epochs=5), epoch=4).pruned == 0


def test_full_prunes_nothing_ever():
    plan = draw(make_spec(SIZES, "full"))
    assert (plan.kept, plan.unpruned, plan.biased) == (NUM_SAMPLES, True, False)


# ---- the static mask


@pytest.mark.parametrize("epoch", [0, 3, 99], ids=["first", "pruned", "annealed"])
@pytest.mark.parametrize("policy", ["infobatch", "random", "hard", "full"])
def test_what_the_mask_leaves_out_is_excluded_in_every_epoch(policy, epoch):
    plan = draw(make_spec(SIZES, policy, subset=MASK), epoch=epoch)
    row = rows_by_name(plan)["excluded"]
    assert np.array_equal(class_members(plan, "excluded"), ~MASK)
    assert (row.size, row.kept, row.weight) == (np.count_nonzero(~MASK), 0, 0)
    assert not kept_mask(plan)[~MASK].any()
    assert plan.kept + plan.pruned == MASK.sum()


def test_scores_outside_the_mask_move_no_threshold_and_are_not_counted():
    inside = np.where(MASK, SCORES, np.float32(np.nan))
    plan = draw(make_spec(SIZES, subset=MASK), np.where(MASK, SCORES, np.float32(1e6)))
    assert plan.threshold == slow_mean_threshold(inside)
    assert plan.never_scored == np.count_nonzero(np.isnan(SCORES) & MASK)


def test_random_takes_its_fraction_of_the_mask():
    plan = draw(make_spec(SIZES, "random", prune_fraction="0.5", subset=MASK))
    assert plan.pruned == math.floor(int(MASK.sum()) / 2 + 0.5)


def test_a_whole_mask_is_no_mask():
    plain, masked = draw(make_spec(SIZES)), draw(make_spec(SIZES, subset=np.ones(NUM_SAMPLES, bool)))
    assert np.array_equal(plain.keep_bits, masked.keep_bits)


# ---- the fallback, and the counts by shard


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_the_fallback_is_what_an_annealed_epoch_keeps(mask):
    spec = make_spec(SIZES, subset=mask)
    fallback = unpruned_plan(
        run_id=RUN_ID, epoch=99, seed=0, shard_sizes=spec.shard_sizes, order=spec.order, subset=mask
    )
    annealed = draw(spec, epoch=99)
    assert fallback.plan_id == full_plan_id(RUN_ID, 99) == f"full:{RUN_ID.hex()}:99"
    assert fallback.generation == 0
    assert np.array_equal(fallback.keep_bits, annealed.keep_bits)
    assert fallback.classes == annealed.classes
    assert fallback.shard_kept.tolist() == annealed.shard_kept.tolist()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=30), st.integers(0, 3))
def test_kept_by_shard_counts_bits(sizes, seed):
    keep = np.random.default_rng(seed).random(sum(sizes)) < 0.5
    ends = np.cumsum(sizes)
    expected = [int(keep[end - size : end].sum()) for size, end in zip(sizes, ends.tolist(), strict=True)]
    assert kept_by_shard(np.packbits(keep, bitorder="little"), np.array(sizes, np.int64)).tolist() == expected


def test_kept_by_shard_over_several_blocks():
    sizes = np.array([0, 2**21, 1, 0, 2**21 - 1, 2**21 + 77, 0], np.int64)
    keep = np.random.default_rng(0).random(int(sizes.sum())) < 0.7
    counts = [int(part.sum()) for part in np.split(keep, np.cumsum(sizes)[:-1])]
    assert kept_by_shard(np.packbits(keep, bitorder="little"), sizes).tolist() == counts


# ---- memory, and policies that hold their codes


@pytest.mark.parametrize("mask", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize(
    ("policy", "own"),
    [
        ("infobatch", {}),
        ("infobatch", {"draw": "exact", "threshold": "quantile:0.4"}),
        ("infobatch", {"prune_fraction": "0.6"}),
        ("levels", {"levels": "0.20:0.75,0.85:0.5"}),
        ("hard", {"prune_fraction": "0.3"}),
    ],
)
def test_drawing_needs_little_more_memory_than_the_plan(policy, own, mask):
    num_samples = 2**23
    spec = make_spec([num_samples], policy, subset=np.arange(num_samples) % 5 > 0 if mask else None, **own)
    table = ScoreTable(num_samples)
    table.score[:] = np.resize(some_scores(99_991), num_samples)
    draw_plan(make_spec([9], policy, **own), make_table(SCORES[:9]), run_id=RUN_ID, generation=1, epoch=1)
    tracemalloc.start()
    plan = draw_plan(spec, table, run_id=RUN_ID, generation=1, epoch=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = plan.keep_bits.nbytes + plan.class_plane.nbytes
    assert peak - held < 14 * 2**20  # blocks of 2¹⁸ samples; an array of N would be 8 to 64 MiB


@dataclass(frozen=True, kw_only=True)
class EveryOther(Policy):
    """A policy that holds its codes in an array."""

    name: ClassVar[str] = "every other"
    held: npt.NDArray[np.uint8]

    def classes(self, view, position):
        return Classification(codes=self.held.__getitem__, rows=(KEPT, ClassRow(name="other", keep_65536=0)))

    def _settings(self):
        return {}


def test_a_policy_may_hold_its_codes_and_they_stay_as_they_are():
    held = (np.arange(NUM_SAMPLES) % 2).astype(np.uint8)
    before = held.copy()
    plan = draw(replace(make_spec(SIZES, subset=MASK), policy=EveryOther(held=held)))
    assert np.array_equal(kept_mask(plan), MASK & (before == 0))
    assert np.array_equal(held, before)
