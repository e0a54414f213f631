"""The promise of the paper: in expectation, the weighted gradients of the kept are those of all samples."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from infobatch_stream.planner import draw_plan
from tests.core.unbiased import check_unbiased, random_directions, weighted_sum
from tests.core.worlds import RUN_ID, make_spec, make_table, some_scores

pytestmark = pytest.mark.statistics

PLANS = 2000
NUM_SAMPLES = 1009  # a prime, so that no share of it is whole

POLICIES = {
    "infobatch below the mean": ("infobatch", {}),
    "infobatch above the mean": ("infobatch", {"condition": "high", "prune_ratio": "0.3"}),
    "infobatch below a quantile": ("infobatch", {"threshold": "quantile:0.61", "prune_ratio": "0.7"}),
    "infobatch above a quantile": ("infobatch", {"threshold": "quantile:0.61", "condition": "high"}),
    "levels from the lowest": ("levels", {"levels": "0.2:0.75,0.85:0.5"}),
    "levels from the highest": ("levels", {"levels": "0.2:0.75,0.85:0.5", "condition": "high"}),
    "random": ("random", {"prune_ratio": "0.4"}),
}
FRACTIONS = {
    "infobatch, the class as it is": ("infobatch", {"prune_fraction": "0.25"}),
    "infobatch, a class of the lowest": ("infobatch", {"prune_fraction": "0.6"}),
    "infobatch, too few scored": ("infobatch", {"prune_fraction": "0.9"}),
    "infobatch above the mean": ("infobatch", {"prune_fraction": "0.2", "condition": "high"}),
    "random": ("random", {"prune_fraction": "0.35"}),
}
RISING = "0:0.1,0.06:0.7,1:0.2"  # at epoch 3 of 100: 0.4
SCHEDULES = {
    "infobatch": ("infobatch", {}),
    "infobatch above a quantile": (
        "infobatch",
        {"threshold": "quantile:0.61", "condition": "high", "prune_ratio": 0.9},
    ),
    "levels": ("levels", {"levels": "0.2:0.75,0.85:0.5"}),
    "random": ("random", {}),
}
SCHEDULED_FRACTIONS = {
    "infobatch, a class of the lowest": ("infobatch", {"prune_fraction": "0.95"}),
    "random": ("random", {"prune_fraction": "0.35"}),
}
CASES = [
    pytest.param(policy, {**settings, "draw": draw}, id=f"{name}, {draw}")
    for name, (policy, settings) in POLICIES.items()
    for draw in ("bernoulli", "exact")
] + [pytest.param(policy, settings, id=f"{name}, a fraction") for name, (policy, settings) in FRACTIONS.items()]
SCHEDULED = [
    pytest.param(policy, {**settings, "draw": draw}, id=f"{name}, {draw}")
    for name, (policy, settings) in SCHEDULES.items()
    for draw in ("bernoulli", "exact")
] + [
    pytest.param(policy, settings, id=f"{name}, a fraction") for name, (policy, settings) in SCHEDULED_FRACTIONS.items()
]


def every_third(cases, first=0):
    """All of the cases, but two of three among the long tests; each policy and each draw stays among the others."""
    return [
        case if at % 3 == first else pytest.param(*case.values, id=case.id, marks=pytest.mark.long)
        for at, case in enumerate(cases)
    ]


SCORES = some_scores(NUM_SAMPLES, seed=5)
DIRECTIONS = random_directions(NUM_SAMPLES)
MASK = np.random.default_rng(8).random(NUM_SAMPLES) < 0.6


def weighted_sums(spec, table, plans=PLANS, change=lambda plan: plan):
    sums = []
    for generation in range(1, plans + 1):
        plan = change(draw_plan(spec, table, run_id=RUN_ID, generation=generation, epoch=3))
        kept = plan.kept_between(0, plan.num_samples)
        sums.append(weighted_sum(DIRECTIONS, kept, plan.weights(kept)))
    return np.array(sums)


@pytest.mark.parametrize(("policy", "settings"), CASES)
def test_weighted_sum_is_unbiased(policy, settings):
    spec = make_spec([400, 0, 609], policy, **settings)
    check_unbiased(weighted_sums(spec, make_table(SCORES)), DIRECTIONS.sum(axis=0))


@pytest.mark.parametrize(("policy", "settings"), every_third(CASES))
def test_weighted_sum_is_unbiased_within_a_static_mask(policy, settings):
    spec = make_spec([400, 0, 609], policy, subset=MASK, **settings)
    check_unbiased(weighted_sums(spec, make_table(SCORES), plans=PLANS // 2), DIRECTIONS[MASK].sum(axis=0))


@pytest.mark.parametrize(("policy", "settings"), every_third(SCHEDULED, first=1))
def test_weighted_sum_is_unbiased_under_a_prune_schedule(policy, settings):
    spec = make_spec([400, 0, 609], policy, prune_schedule=RISING, **settings)
    assert spec.schedule.position(3).share == Fraction(2, 5)
    check_unbiased(weighted_sums(spec, make_table(SCORES)), DIRECTIONS.sum(axis=0))


@pytest.mark.parametrize(("policy", "settings"), every_third(SCHEDULED, first=1))
def test_the_check_sees_weights_of_another_epoch_of_the_schedule(policy, settings):
    spec = make_spec([400, 0, 609], policy, prune_schedule=RISING, **settings)
    later = draw_plan(spec, make_table(SCORES), run_id=RUN_ID, generation=1, epoch=4)

    def as_in_epoch_4(plan):
        rows = [replace(row, weight=other.weight) for row, other in zip(plan.classes, later.classes, strict=True)]
        return replace(plan, classes=tuple(rows))

    sums = weighted_sums(spec, make_table(SCORES), plans=400, change=as_in_epoch_4)
    with pytest.raises(AssertionError, match=r"standard errors|without variance"):
        check_unbiased(sums, DIRECTIONS.sum(axis=0))


@pytest.mark.parametrize("draw", ["bernoulli", "exact"])
def test_the_check_sees_weights_that_are_two_percent_too_large(draw):
    def heavier(plan):
        return replace(plan, classes=tuple(replace(row, weight=row.weight * 1.02) for row in plan.classes))

    spec = make_spec([NUM_SAMPLES], draw=draw)
    sums = weighted_sums(spec, make_table(SCORES), plans=200, change=heavier)
    with pytest.raises(AssertionError, match="standard errors"):
        check_unbiased(sums, DIRECTIONS.sum(axis=0))


def test_the_check_sees_one_over_p_where_the_draw_was_exact():
    def one_over_p(plan):
        rows = [replace(row, weight=1.0 if row.name == "kept" else 2.0) for row in plan.classes]
        return replace(plan, classes=tuple(rows))

    # A class of 7 keeps 4: 7/4, not 2.
    spec = make_spec([NUM_SAMPLES], threshold="quantile:0.008", draw="exact")
    table = make_table(SCORES)
    plan = draw_plan(spec, table, run_id=RUN_ID, generation=1, epoch=3)
    assert (plan.classes[1].size, plan.classes[1].kept) == (7, 4)
    check_unbiased(weighted_sums(spec, table), DIRECTIONS.sum(axis=0))
    with pytest.raises(AssertionError, match="standard errors"):
        check_unbiased(weighted_sums(spec, table, change=one_over_p), DIRECTIONS.sum(axis=0))


def test_a_policy_without_rescaling_is_biased_and_the_check_sees_it():
    spec = make_spec([NUM_SAMPLES], rescale=False)
    with pytest.raises(AssertionError, match="standard errors"):
        check_unbiased(weighted_sums(spec, make_table(SCORES), plans=200), DIRECTIONS.sum(axis=0))


OF_SHARDS = ["web", "books", "web", "code"]
BY_GROUP = [
    pytest.param(policy, {**settings, "draw": draw}, id=f"{name}, {draw}")
    for name, (policy, settings) in POLICIES.items()
    for draw in ("bernoulli", "exact")
    if (policy, draw) != ("random", "bernoulli")
] + [pytest.param(policy, settings, id=f"{name}, a fraction") for name, (policy, settings) in FRACTIONS.items()]


@pytest.mark.parametrize(("policy", "settings"), every_third(BY_GROUP))
def test_weighted_sum_of_each_group_is_unbiased(policy, settings):
    """Each direction counts the samples of one group alone, or of all."""
    sizes = [300, 200, 109, 400]
    of_sample = np.repeat(OF_SHARDS, sizes)
    directions = np.concatenate([DIRECTIONS * (of_sample == name)[:, None] for name in sorted(set(OF_SHARDS))], axis=1)
    spec = make_spec(sizes, policy, groups=OF_SHARDS, per_group=True, **settings)
    table = make_table(SCORES * np.where(of_sample == "web", 10, 1).astype(np.float32))
    sums = []
    for generation in range(1, PLANS // 2 + 1):
        plan = draw_plan(spec, table, run_id=RUN_ID, generation=generation, epoch=3)
        assert all(group.pruned for group in plan.groups)
        kept = plan.kept_between(0, NUM_SAMPLES)
        sums.append(weighted_sum(directions, kept, plan.weights(kept)))
    check_unbiased(np.array(sums), directions.sum(axis=0))


def sums_after_a_rewind(generation_after):
    """400 times: draw, give the kept samples new scores, rewind, draw again."""
    truth = some_scores(NUM_SAMPLES, seed=6, unscored=0)
    sums = []
    for seed in range(400):
        spec = make_spec([NUM_SAMPLES], seed=seed)
        table = make_table(SCORES)
        kept = draw_plan(spec, table, run_id=RUN_ID, generation=1, epoch=3).kept_between(0, NUM_SAMPLES)
        table.update(3, kept, truth[kept])
        table.lower_stamps(3)
        plan = draw_plan(spec, table, run_id=RUN_ID, generation=generation_after, epoch=3)
        kept = plan.kept_between(0, NUM_SAMPLES)
        sums.append(weighted_sum(DIRECTIONS, kept, plan.weights(kept)))
    return np.array(sums)


def test_a_plan_that_is_drawn_again_after_a_rewind_is_unbiased():
    check_unbiased(sums_after_a_rewind(generation_after=2), DIRECTIONS.sum(axis=0))


def test_uniforms_that_decide_twice_would_be_biased():
    with pytest.raises(AssertionError, match="standard errors"):
        check_unbiased(sums_after_a_rewind(generation_after=1), DIRECTIONS.sum(axis=0))
