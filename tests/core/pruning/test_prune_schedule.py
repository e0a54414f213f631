"""A prune schedule: its share at any progress, exactly, and the counts that each policy keeps under it."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_stream.errors import ConfigError
from infobatch_stream.planner import draw_plan
from infobatch_stream.pruning.policies import POLICIES, Hard, InfoBatch, Levels, Random, make_policy
from infobatch_stream.pruning.prune_schedule import prune_schedule
from infobatch_stream.pruning.schedule import Schedule
from tests.core.worlds import RUN_ID, kept_mask, make_spec, make_table, rows_by_name, some_scores

NUM_SAMPLES = 1009
EPOCHS = 20
SCORES = some_scores(NUM_SAMPLES, seed=5)
RISING_AND_FALLING = [(0, 0.2), ("0.5", "0.6"), (1, 0)]


def share_at(points, progress):
    """The share of exact points by the words of the documentation."""
    if progress < points[0][0]:
        return points[0][1]
    start, low = [point for point in points if point[0] <= progress][-1]
    later = [point for point in points if point[0] > progress]
    if not later:
        return low
    end, high = later[0]
    return low + (high - low) * (progress - start) / (end - start)


def exact(points):
    return [(Fraction(str(progress)), Fraction(str(share))) for progress, share in points]


def draw(spec, epoch, scores=SCORES):
    return draw_plan(spec, make_table(scores), run_id=RUN_ID, generation=1, epoch=epoch)


TENTHS = st.integers(0, 10).map(lambda tenth: f"{tenth / 10:.1f}")


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    st.lists(TENTHS, min_size=1, max_size=6)
    .map(sorted)
    .filter(lambda order: max(map(order.count, order)) <= 2)
    .flatmap(lambda order: st.tuples(*[st.tuples(st.just(progress), TENTHS) for progress in order])),
    st.fractions(0, 1, max_denominator=60),
)
def test_the_share_is_linear_between_points_and_steps_where_two_have_the_same_progress(points, progress):
    text = InfoBatch(prune_schedule=points, prune_ratio="0.5").prune_schedule
    assert prune_schedule(text).share(progress) == share_at(exact(points), progress)
    assert prune_schedule(text).peak == max(share for _, share in exact(points))


def test_a_step_counts_from_its_progress_on():
    schedule = prune_schedule("0:0.5,0.5:0.5,0.5:0.1,0.8:0.1,0.8:0")
    tenths = [schedule.share(Fraction(tenth, 10)) for tenth in range(11)]
    assert tenths == [Fraction("0.5")] * 5 + [Fraction("0.1")] * 3 + [0] * 3


def test_it_is_stored_as_one_text_whatever_it_was_written_as():
    texts = {
        Random(prune_schedule=points).prune_schedule
        for points in (
            RISING_AND_FALLING,
            [(0.0, "0.20"), (0.50, 0.6), ("1.0", "0e3")],
            ((np.float32(0), np.float32(0.2)), (np.float64(0.5), 0.6), (np.int64(1), 0)),
            "0:0.2,0.5:0.6,1:0",
            "0.0:.2,5e-1:0.60,1:0",
        )
    }
    assert texts == {"0:0.2,0.5:0.6,1:0"}


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("0:0.2,0.5", "prune_schedule='0:0.2,0.5' is not a list of pairs of numbers, such as"),
        ([0.2, 0.5], "prune_schedule=[0.2, 0.5] is not a list of pairs of numbers"),
        ([], "prune_schedule=[] is not a list of pairs"),
        (5, "prune_schedule=5 is not a list of pairs"),
        ([("a", 0.5)], "prune_schedule='a' is not a finite decimal number"),
        ([(0, float("nan"))], "prune_schedule=nan is not a finite decimal number"),
        ([(-0.1, 0.5)], "prune_schedule=-0.1:0.5: progress -0.1 is outside [0, 1]"),
        ([(1.1, 0.5)], "progress 1.1 is outside [0, 1]"),
        ([(0, 1.5)], "share 1.5 is outside [0, 1]"),
        ([(0.5, 0.1), (0.4, 0.1)], "prune_schedule=0.5:0.1,0.4:0.1: progress must ascend"),
        ([(0.5, 0.1), (0.5, 0.2), (0.5, 0.3)], "more than two points have the same progress"),
        ([(i / 1000, 0.1) for i in range(201)], "prune_schedule has 201 points; 200 are allowed"),
    ],
)
def test_invalid_schedules_are_refused(points, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Random(prune_schedule=points)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Random(prune_schedule=[(0, 0.5), (1, 1)]),
        lambda: InfoBatch(prune_schedule=[(0, 1)]),
        lambda: InfoBatch(prune_schedule=[(0, 0.5), (0.5, 1), (1, 0)], prune_ratio=1),
        lambda: Random(prune_schedule=[(0, 1)], prune_fraction=1),
    ],
)
def test_a_peak_that_leaves_nothing_to_weigh_up_is_refused(make):
    with pytest.raises(ConfigError, match=r"prunes everything at its peak \(1 × 1\): no weight makes up for that"):
        make()


def test_a_peak_that_keeps_next_to_nothing_is_refused():
    with pytest.raises(ConfigError, match="keeps less than 1 sample in 131,072"):
        Random(prune_schedule=[(0, "0.999999")])


def test_what_needs_no_weight_may_prune_everything_below_the_threshold():
    assert Hard(prune_schedule=[(0, 1)]).peak_share == 1
    assert InfoBatch(prune_schedule=[(0, 0.6)], prune_ratio=1).prune_ratio == "1"
    with pytest.raises(ConfigError, match=r"levels prune ratio=1 is outside \[0, 1\)"):
        Levels(prune_schedule=[(0, 1)], levels=[(0.5, 1)])


# ---- what each policy keeps


@pytest.mark.parametrize("name", POLICIES)
def test_a_share_of_0_is_an_unpruned_epoch(name):
    own = {"levels": [(0.5, 0.5)]} if name == "levels" else {}
    spec = make_spec([NUM_SAMPLES], name, epochs=EPOCHS, prune_schedule=[(0, 0), (0.5, 0), (0.5, 0.5), (0.8, 0)], **own)
    for epoch in range(EPOCHS):
        plan = draw(spec, epoch)
        pruned = name != "full" and 10 <= epoch < 16
        assert (plan.unpruned, plan.pruned > 0, plan.biased) == (not pruned, pruned, name == "hard" and pruned)
        assert pruned or (plan.weights(np.arange(NUM_SAMPLES)) == 1).all()


def test_annealing_applies_on_top():
    spec = make_spec([NUM_SAMPLES], "random", epochs=EPOCHS, delta="0.5", prune_schedule=[(0, 0.4)])
    assert [draw(spec, epoch).unpruned for epoch in (8, 9, 10, 19)] == [False, False, True, True]
    spec = make_spec([NUM_SAMPLES], "random", epochs=EPOCHS, anneal=False, prune_schedule=[(0, 0.4)])
    assert not draw(spec, 19).unpruned


def test_annealing_is_the_schedule_that_drops_to_0():
    annealed = make_spec([NUM_SAMPLES], epochs=EPOCHS, delta="0.8", prune_ratio="0.6")
    dropping = make_spec([NUM_SAMPLES], epochs=EPOCHS, anneal=False, prune_schedule="0:0.6,0.8:0.6,0.8:0")
    for epoch in range(EPOCHS):
        assert np.array_equal(draw(annealed, epoch).keep_bits, draw(dropping, epoch).keep_bits)


@pytest.mark.parametrize("policy", ["random", "infobatch", "hard"])
@pytest.mark.parametrize(("fraction", "hundredths"), [("0.29", 29), (0.7, 70)])
def test_a_fraction_prunes_exactly_its_share_of_all_samples_in_each_epoch(policy, fraction, hundredths):
    spec = make_spec([NUM_SAMPLES], policy, epochs=EPOCHS, prune_fraction=fraction, prune_schedule=RISING_AND_FALLING)
    for epoch in range(EPOCHS):
        if epoch >= 17:  # ⌊0.875 · 20⌋
            assert draw(spec, epoch).unpruned
            continue
        # s = (40 + 8t)/200 up to epoch 10, then (240 − 12t)/200.
        share_200ths = 40 + 8 * epoch if epoch <= 10 else 240 - 12 * epoch
        wanted = (hundredths * share_200ths * NUM_SAMPLES + 10_000) // 20_000
        plan = draw(spec, epoch)
        assert (plan.prune_requested, plan.pruned) == (wanted, wanted)


@pytest.mark.parametrize(("given", "ratio"), [({}, 1), ({"prune_ratio": 0.5}, Fraction(1, 2))])
def test_a_ratio_is_multiplied_by_the_share_and_1_by_default(given, ratio):
    for policy, name in (("infobatch", "low"), ("random", "drawn")):
        spec = make_spec([NUM_SAMPLES], policy, epochs=EPOCHS, draw="exact", prune_schedule=RISING_AND_FALLING, **given)
        for epoch in range(17):
            share_200ths = 40 + 8 * epoch if epoch <= 10 else 240 - 12 * epoch
            k = math.floor(65536 * (1 - ratio * Fraction(share_200ths, 200)) + Fraction(1, 2))
            row = rows_by_name(draw(spec, epoch))[name]
            assert row.kept == max(1, (k * row.size + 32768) >> 16)
            assert row.weight == np.float32(row.size / row.kept)


def test_bernoulli_keeps_with_the_epochs_own_probability_and_weighs_by_it():
    spec = make_spec([NUM_SAMPLES], epochs=4, anneal=False, prune_schedule="0:0.2,1:0.6")
    rows = [rows_by_name(draw(spec, epoch))["low"] for epoch in range(4)]
    assert [row.keep_65536 for row in rows] == [52429, 45875, 39322, 32768]
    assert [row.weight for row in rows] == [np.float32(65536 / row.keep_65536) for row in rows]


def test_every_level_is_multiplied_by_the_share():
    spec = make_spec(
        [NUM_SAMPLES], "levels", epochs=4, levels=[(0.2, 0.75), (0.85, 0.5)], prune_schedule=[(0, 1), (1, 0)]
    )
    rows = [[row.keep_65536 for row in draw(spec, epoch).classes[1:]] for epoch in range(3)]
    assert rows == [[16384, 32768], [28672, 40960], [40960, 49152]]


@pytest.mark.parametrize("condition", ["low", "high"])
def test_hard_drops_a_share_of_those_below_the_threshold_the_lowest_first(condition):
    spec = make_spec(
        [NUM_SAMPLES], "hard", epochs=4, anneal=False, condition=condition, prune_schedule=[(0, 1), (1, 0.2)]
    )
    plain = draw(make_spec([NUM_SAMPLES], "hard", epochs=4, anneal=False, condition=condition), 1)
    order = np.argsort(SCORES if condition == "low" else -SCORES, kind="stable")
    for epoch in range(4):
        tenths = 10 - 2 * epoch
        wanted = (2 * tenths * plain.pruned + 10) // 20
        plan = draw(spec, epoch)
        assert sorted(np.flatnonzero(~kept_mask(plan))) == sorted(order[:wanted])
        assert (plan.prune_requested, plan.low_share, plan.biased) == (wanted, plain.low_share, True)


# ---- how it is sent, and advice


@pytest.mark.parametrize("name", POLICIES)
def test_it_is_a_setting_only_if_it_is_set(name):
    own = {"levels": [(0.5, 0.5)]} if name == "levels" else {}
    assert "prune_schedule" not in make_policy(name, **own).params()
    assert make_policy(name, prune_schedule=[(0, 0.5)], **own).params()["prune_schedule"] == "0:0.5"


@pytest.mark.parametrize(
    ("policy", "epochs", "advice"),
    [
        (
            Random(prune_schedule=[(0, 0)]),
            20,
            "prune_schedule=0:0 is 0 in each of the epochs 0 to 16 that may be",
        ),
        (InfoBatch(prune_schedule="0:0.5,0.05:0.5,0.05:0"), 20, "is 0 in each of the epochs 1 to 16"),
        (Random(prune_schedule="0:0.5,0.05:0.5,0.05:0"), 20, None),
        (InfoBatch(delta=1, prune_schedule="0:0.5,0.9:0.5,0.9:0"), 20, None),
        (InfoBatch(delta=1, prune_schedule="0:0.5,1:0"), 20, "never anneals with epochs=20 and delta=1"),
        (InfoBatch(anneal=False, prune_schedule="0:0.5,1:0"), 20, None),
        (InfoBatch(delta=0, prune_schedule=RISING_AND_FALLING), 20, "delta=0.1 prunes one epoch"),
    ],
)
def test_a_schedule_that_never_prunes_warns(policy, epochs, advice):
    text = Schedule(epochs=epochs, policy=policy).advice()
    assert text == advice or advice in text


POINTS = st.lists(st.tuples(TENTHS, st.sampled_from(["0", "0", "0.3"])), min_size=1, max_size=5).map(
    lambda points: sorted(points, key=lambda point: point[0])
)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(POINTS.filter(lambda points: len({progress for progress, _ in points}) == len(points)), st.integers(3, 40))
def test_there_is_advice_iff_no_epoch_prunes(points, epochs):
    schedule = Schedule(epochs=epochs, policy=Random(prune_schedule=points, anneal=False))
    prunes = any(not schedule.is_unpruned(epoch) for epoch in range(epochs))
    assert (schedule.advice() is None) == prunes


def test_a_fraction_is_advised_on_by_its_peak():
    assert InfoBatch(prune_fraction="0.9", prune_schedule="0:0.8").advice() is None
    assert "at most 0.75" in InfoBatch(prune_fraction="0.9", prune_schedule="0:0.9").advice()
