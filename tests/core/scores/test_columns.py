"""Columns against a dict that folds one record after the other: every fold, pushed or of the score itself."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_stream.errors import ConfigError
from infobatch_stream.scores.columns import ColumnSpec
from infobatch_stream.scores.table import ScoreTable

NUM_SAMPLES = 7
COLUMNS = (
    ColumnSpec(name="newest", fold="last"),
    ColumnSpec(name="before", dtype="float64", fold="previous"),
    ColumnSpec(name="before_int", dtype="int32", fold="previous"),
    ColumnSpec(name="run", dtype="uint8", fold="streak", condition=">= 0.1"),
    ColumnSpec(name="mean", dtype="float64", fold="ema", ema_weight="0.25"),
    ColumnSpec(name="square", dtype="float64", fold="mean_square", ema_weight="0.25"),
    ColumnSpec(name="score_before", fold="previous", source="score"),
    ColumnSpec(name="score_run", dtype="int64", fold="streak", condition="< 2", source="score"),
    ColumnSpec(name="score_mean", dtype="float64", fold="ema", ema_weight="0.3", source="score"),
    ColumnSpec(name="score_square", dtype="float64", fold="mean_square", ema_weight="1", source="score"),
    ColumnSpec(name="score_newest", dtype="float64", source="score"),
)
PUSHED = [column.name for column in COLUMNS if column.source == "pushed"]
VALUES = st.one_of(st.floats(-9, 9, width=32), st.sampled_from([0.1, np.float32(0.1).item(), 2.0]))
ODD = st.sampled_from([math.nan, math.inf, -math.inf])
RECORD = st.tuples(st.integers(0, NUM_SAMPLES - 1), VALUES | ODD, VALUES | ODD, st.integers(-9, 9))
STEP = st.one_of(
    st.tuples(st.just("update"), st.integers(0, 3), st.lists(RECORD, max_size=9)),
    st.tuples(st.just("rewind"), st.integers(0, 3), st.just(())),
    st.tuples(st.just("import"), st.integers(0, NUM_SAMPLES - 1), VALUES | st.just(math.nan)),
)


class Slow:
    """One dict per sample and record after record, in Python's own arithmetic."""

    def __init__(self):
        self.samples = [{"stamp": 0, "score": math.nan} for _ in range(NUM_SAMPLES)]

    def update(self, epoch, records):
        before = [sample["stamp"] for sample in self.samples]
        for index, score, value, number in records:
            score = float(np.float32(score))
            if not math.isfinite(score) or epoch + 1 < before[index]:
                continue
            sample = self.samples[index]
            sample["newest"] = float(np.float32(value))
            if math.isfinite(value):
                sample["before"], sample["before.last"] = sample.get("before.last", math.nan), value
                self.average(sample, "mean", value, 0.25)
                self.average(sample, "square", value * value, 0.25)
            sample["before_int"], sample["before_int.last"] = sample.get("before_int.last", 0), number
            held = not math.isnan(value) and (value > 0 if math.isinf(value) else rounded(value) >= Fraction("0.1"))
            sample["run"] = min(255, sample.get("run", 0) + 1) if held else 0
            sample["score_before"] = sample["score"]
            sample["score_run"] = sample.get("score_run", 0) + 1 if score < 2 else 0
            self.average(sample, "score_mean", score, 0.3)
            self.average(sample, "score_square", score * score, 1)
            sample["score"] = sample["score_newest"] = score
            sample["stamp"] = epoch + 1

    def average(self, sample, name, value, weight):
        sample[name] = weight * value + (1 - weight) * sample[name] if name in sample else value

    def column(self, name, empty):
        return [sample.get(name, empty) for sample in self.samples]


def rounded(value):
    """The float32 that is pushed, exactly."""
    return Fraction(float(np.float32(value)))


def push(table, epoch, records):
    indices, scores, values, numbers = zip(*records, strict=True) if records else ((), (), (), ())
    arrays = {name: np.array(values, np.float64) for name in PUSHED}
    arrays["newest"] = arrays["run"] = np.array(values, np.float32)
    arrays["before_int"] = np.array(numbers, np.int32)
    return table.update(epoch, np.array(indices, np.int64), np.array(scores, np.float32), arrays)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.lists(STEP, max_size=12))
def test_any_sequence_of_updates_rewinds_and_imports_is_that_of_single_records(steps):
    table, slow = ScoreTable(NUM_SAMPLES, COLUMNS), Slow()
    for kind, number, content in steps:
        if kind == "update":
            push(table, number, content)
            slow.update(number, content)
        elif kind == "rewind":
            table.lower_stamps(number)
            for sample in slow.samples:
                sample["stamp"] = min(sample["stamp"], number)
        else:
            table.import_scores(number, np.array([content], np.float32))
            slow.samples[number] |= {"score": float(np.float32(content)), "stamp": 0}
    exact = {"newest": 0, "before": math.nan, "before.last": math.nan, "before_int": 0, "before_int.last": 0, "run": 0}
    exact |= {"score_before": math.nan, "score_run": 0, "score_newest": 0}
    for name, empty in exact.items():
        assert np.array_equal(table.extra[name], slow.column(name, empty), equal_nan=name != "run"), name
    for name in ("mean", "square", "score_mean", "score_square"):
        assert np.allclose(table.extra[name], slow.column(name, math.nan), rtol=1e-12, equal_nan=True), name
    assert set(table.extra) == {*exact, "mean", "square", "score_mean", "score_square"}


def fold_all(spec, values):
    """The column after one record per value of a single sample, pushed at once."""
    table = ScoreTable(1, (spec,))
    scores = np.array(values if spec.source == "score" else np.zeros(len(values)), np.float32)
    pushed = {spec.name: np.array(values, spec.pushed.dtype)} if spec.pushed else None
    table.update(0, np.zeros(len(values), np.int64), scores, pushed)
    return table.extra[spec.name][0].item()


@pytest.mark.parametrize("source", ["pushed", "score"])
def test_previous_is_the_value_before_the_last_also_within_one_push(source):
    spec = ColumnSpec(name="before", fold="previous", source=source)
    assert math.isnan(fold_all(spec, [1]))
    assert fold_all(spec, [1, 2]) == 1
    assert fold_all(spec, [1, 2, 3, 7]) == 3


def test_previous_of_the_score_takes_an_imported_score_for_the_one_before():
    table = ScoreTable(2, (ColumnSpec(name="before", fold="previous", source="score"),))
    table.import_scores(0, np.array([4, np.nan], np.float32))
    table.update(0, np.array([0, 1]), np.array([1, 1], np.float32))
    assert np.array_equal(table.extra["before"], [4, np.nan], equal_nan=True)


def test_a_policy_finds_the_newest_pushed_value_beside_the_previous_one():
    table = ScoreTable(1, (ColumnSpec(name="margin", fold="previous"),))
    for value in (3, 5, math.nan):
        table.update(0, np.array([0]), np.array([1], np.float32), {"margin": np.array([value], np.float32)})
    assert (table.extra["margin"][0], table.extra["margin.last"][0]) == (3, 5)


@pytest.mark.parametrize(
    ("condition", "values", "streak"),
    [
        (">= 0.5", [0.4, 0.5, 0.6], 2),
        (">= 0.5", [0.5, 0.4], 0),
        ("> 0.5", [0.6, 0.5], 0),
        ("<0.5", [0.4, -1], 2),
        ("<= -1", [-1, -1, -2], 3),
        (">= 0.5", [1, math.nan], 0),
        (">= 0.5", [1, math.inf], 2),
        ("< 0.5", [-math.inf], 1),
        (">= 1e30", [math.inf], 1),
        ("> 1e60", [3e38, math.inf], 1),
        ("< -1e60", [-3e38], 0),
    ],
)
def test_a_streak_counts_records_in_a_row_that_meet_the_condition(condition, values, streak):
    assert fold_all(ColumnSpec(name="run", dtype="int32", fold="streak", condition=condition), values) == streak


def test_a_streak_stays_at_the_largest_number_that_its_dtype_has():
    spec = ColumnSpec(name="run", dtype="uint8", fold="streak", condition="> 0")
    assert fold_all(spec, [1] * 300) == 255
    assert fold_all(spec, [1] * 300 + [0, 1]) == 1


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.sampled_from(["<", "<=", ">", ">="]), st.decimals("-2", "2", places=9), st.integers(-2, 2))
def test_a_condition_compares_exactly_also_beside_its_number(sign, number, steps):
    value = np.float32(number)
    for _ in range(abs(steps)):
        value = np.nextafter(value, np.float32(math.copysign(9, steps)))
    exact = {"<": Fraction.__lt__, "<=": Fraction.__le__, ">": Fraction.__gt__, ">=": Fraction.__ge__}[sign]
    spec = ColumnSpec(name="run", dtype="int32", fold="streak", condition=f"{sign} {number}")
    assert spec.is_met_by(np.array([value])).tolist() == [exact(Fraction(float(value)), Fraction(number))]


def test_mean_and_mean_square_give_a_variance():
    values = np.random.default_rng(0).normal(3, 2, 4000)
    mean = fold_all(ColumnSpec(name="a", dtype="float64", fold="ema", ema_weight="0.002"), values)
    square = fold_all(ColumnSpec(name="a", dtype="float64", fold="mean_square", ema_weight="0.002"), values)
    assert mean == pytest.approx(3, abs=0.3)
    assert square - mean**2 == pytest.approx(4, abs=1)


def test_a_square_that_overflows_is_passed_over():
    spec = ColumnSpec(name="a", fold="mean_square", ema_weight="0.5")
    assert fold_all(spec, [2, 3e38, math.inf, 4]) == 10


@pytest.mark.parametrize(
    ("spec", "sample_bytes"),
    [
        (ColumnSpec(name="a"), 4),
        (ColumnSpec(name="a", dtype="uint8", fold="streak", condition="< 1"), 1),
        (ColumnSpec(name="a", dtype="float64", fold="previous"), 16),
        (ColumnSpec(name="a", fold="previous", source="score"), 4),
    ],
)
def test_a_column_says_what_memory_it_takes(spec, sample_bytes):
    table = ScoreTable(100, (spec,))
    assert spec.sample_bytes == sample_bytes == sum(values.nbytes for values in table.extra.values()) / 100


def test_a_table_that_folds_scores_alone_takes_no_columns():
    table = ScoreTable(1, (ColumnSpec(name="before", fold="previous", source="score"),))
    with pytest.raises(ConfigError, match=re.escape("columns ['before'] were pushed, the policy declares []")):
        table.update(0, np.array([0]), np.array([1], np.float32), {"before": np.array([1.0])})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fold": "mean_square", "dtype": "int32", "ema_weight": "1"}, "fold='mean_square' needs a float dtype"),
        ({"fold": "mean_square"}, "ema_weight='' is not a finite decimal"),
        ({"fold": "streak"}, "fold='streak' needs an integer dtype, not float32"),
        ({"fold": "streak", "dtype": "int32"}, "condition='' is not a comparison with a number, such as '>= 0.5'"),
        ({"fold": "streak", "dtype": "int32", "condition": "== 1"}, "condition='== 1' is not a comparison"),
        ({"fold": "streak", "dtype": "int32", "condition": "< x"}, "condition='x' is not a finite decimal"),
        ({"condition": "< 1"}, "condition='< 1' goes with fold='streak' only"),
        ({"ema_weight": "0.5"}, "ema_weight='0.5' goes with fold='ema' or 'mean_square' only"),
        ({"source": "loss"}, "source='loss' is neither 'pushed' nor 'score'"),
        ({"source": "score", "dtype": "int32"}, "source='score' needs a float dtype, not int32"),
    ],
)
def test_invalid_columns_are_refused(fields, message):
    with pytest.raises(ConfigError, match=re.escape(f"column a: {message}")):
        ColumnSpec(**{"name": "a", **fields})


def test_a_weight_may_be_a_float() -> None:
    assert ColumnSpec(name="mean", fold="ema", ema_weight=0.50).ema_weight == "0.5"  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="column mean: ema_weight"):
        ColumnSpec(name="mean", fold="ema", ema_weight="much")
