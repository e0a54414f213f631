"""The score table against a dict that is updated record by record (Eq. 5)."""

import math
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_stream.errors import ConfigError
from infobatch_stream.scores.columns import ColumnSpec
from infobatch_stream.scores.table import MAX_EPOCHS, ScoreTable
from tests.core.worlds import make_table

NUM_SAMPLES = 12
COLUMNS = (
    ColumnSpec(name="newest", dtype="int32"),
    ColumnSpec(name="smooth", dtype="float64", fold="ema", ema_weight="0.25"),
)
SCORES = st.one_of(st.floats(width=32), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0]))
RECORD = st.tuples(st.integers(0, NUM_SAMPLES - 1), SCORES, st.integers(-9, 9), st.floats(-9, 9) | st.just(math.nan))
STEP = st.one_of(
    st.tuples(st.just("update"), st.integers(0, 4), st.lists(RECORD, max_size=9)),
    st.tuples(st.just("rewind"), st.integers(0, 4), st.just(())),
)


class SlowTable:
    """One dict per column, one record after the other."""

    def __init__(self):
        self.score, self.stamp, self.visits, self.newest, self.smooth = {}, {}, {}, {}, {}

    def update(self, epoch, records):
        accepted = non_finite = stale = 0
        before = dict(self.stamp)
        for index, score, newest, smooth in records:
            if not math.isfinite(score):
                non_finite += 1
            elif epoch + 1 < before.get(index, 0):
                stale += 1
            else:
                accepted += 1
                if epoch + 1 > self.stamp.get(index, 0):
                    self.visits[index] = self.visits.get(index, 0) + 1
                self.score[index], self.stamp[index], self.newest[index] = score, epoch + 1, newest
                if not math.isnan(smooth):
                    old = self.smooth.get(index, smooth)
                    self.smooth[index] = 0.25 * smooth + 0.75 * old if index in self.smooth else smooth
        return accepted, non_finite, stale

    def rewind(self, epoch):
        self.stamp = {index: min(stamp, epoch) for index, stamp in self.stamp.items()}

    def column(self, name, empty):
        return [getattr(self, name).get(index, empty) for index in range(NUM_SAMPLES)]


def apply(table, epoch, records):
    indices, scores, newest, smooth = zip(*records, strict=True) if records else ((), (), (), ())
    return table.update(
        epoch,
        np.array(indices, np.int64),
        np.array(scores, np.float32),
        {"newest": np.array(newest, np.int32), "smooth": np.array(smooth, np.float64)},
    )


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(STEP, max_size=12))
def test_any_sequence_of_updates_and_rewinds_is_that_of_single_records(steps):
    table, slow = ScoreTable(NUM_SAMPLES, COLUMNS), SlowTable()
    for kind, epoch, records in steps:
        if kind == "rewind":
            table.lower_stamps(epoch)
            slow.rewind(epoch)
            continue
        counts = apply(table, epoch, records)
        assert (counts.accepted, counts.non_finite, counts.stale) == slow.update(epoch, records)
        assert counts.accepted + counts.non_finite + counts.stale == len(records)
    assert np.array_equal(table.score, np.array(slow.column("score", math.nan), np.float32), equal_nan=True)
    assert table.stamp.tolist() == slow.column("stamp", 0)
    assert table.visits.tolist() == slow.column("visits", 0)
    assert table.extra["newest"].tolist() == slow.column("newest", 0)
    assert np.allclose(table.extra["smooth"], slow.column("smooth", math.nan), rtol=1e-12, equal_nan=True)
    assert table.num_scored == len(slow.score)


def push(table, epoch, indices, scores):
    return table.update(epoch, np.array(indices, np.int64), np.array(scores, np.float32))


def test_a_later_epoch_wins_whatever_comes_first():
    table = ScoreTable(2)
    push(table, 5, [0], [5.0])
    counts = push(table, 4, [0, 1], [4.0, 4.0])
    assert (counts.accepted, counts.stale) == (1, 1)
    assert table.score.tolist() == [5.0, 4.0]


def test_within_an_epoch_the_later_record_wins():
    table = ScoreTable(1)
    push(table, 5, [0, 0, 0], [1.0, 2.0, 3.0])
    assert table.score[0] == 3
    push(table, 5, [0], [4.0])
    assert (table.score[0], table.visits[0]) == (4, 1)


def test_nan_and_infinite_scores_leave_the_old_one():
    table = make_table(np.array([1.0, 2.0, 3.0], np.float32))
    counts = push(table, 5, [0, 1, 2], [np.nan, np.inf, -np.inf])
    assert (counts.accepted, counts.non_finite, counts.stale) == (0, 3, 0)
    assert table.score.tolist() == [1, 2, 3]
    assert not table.stamp.any()


def test_visits_saturate():
    table = ScoreTable(1)
    table.visits[0] = 65_534
    for epoch in (1, 2, 3):
        push(table, epoch, [0], [1.0])
    assert table.visits[0] == 65_535


def test_the_last_epoch_has_a_stamp():
    table = ScoreTable(1)
    push(table, MAX_EPOCHS - 1, [0], [1.0])
    assert table.stamp[0] == MAX_EPOCHS


def test_a_rewind_lets_redone_epochs_store_and_keeps_the_scores():
    table = ScoreTable(2)
    push(table, 7, [0], [7.0])
    push(table, 2, [1], [2.0])
    table.lower_stamps(5)
    assert table.stamp.tolist() == [5, 3]
    assert table.score.tolist() == [7, 2]
    assert push(table, 5, [0], [5.0]).accepted == 1
    assert table.score[0] == 5


# ---- columns


def test_the_first_value_of_an_average_is_taken_as_it_is_even_after_an_import():
    table = ScoreTable(2, COLUMNS)
    table.import_scores(0, np.array([3, np.nan], np.float32))
    apply(table, 1, [(0, 1.0, 0, 8.0), (1, 1.0, 0, 8.0)])
    assert table.extra["smooth"].tolist() == [8, 8]


def test_an_average_survives_values_that_are_no_number():
    table = ScoreTable(1, COLUMNS)
    for epoch, value in enumerate([4.0, math.nan, math.inf, 8.0]):
        apply(table, epoch, [(0, 1.0, 0, value)])
    assert table.extra["smooth"].tolist() == [5.0]


def test_many_repeats_of_one_sample_are_folded_in_order():
    table = ScoreTable(1, COLUMNS)
    values = np.random.default_rng(0).normal(size=20_000)
    apply(table, 0, [(0, 1.0, 0, value) for value in values.tolist()])
    expected = values[0]
    for value in values[1:]:
        expected = 0.25 * value + 0.75 * expected
    assert table.extra["smooth"][0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "score"}, "column name 'score' is not a free identifier"),
        ({"name": "a b"}, "column name 'a b' is not a free identifier"),
        ({"name": "a", "dtype": "float16"}, "dtype='float16' is none of float32"),
        ({"name": "a", "fold": "max"}, "fold='max' is none of last, ema"),
        ({"name": "a", "fold": "ema", "dtype": "int32"}, "fold='ema' needs a float dtype, not int32"),
        ({"name": "a", "fold": "ema"}, "column a: ema_weight='' is not a finite decimal"),
        ({"name": "a", "fold": "ema", "ema_weight": "1.5"}, "ema_weight=1.5 is outside (0, 1]"),
    ],
)
def test_invalid_columns_are_refused(fields, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        ColumnSpec(**fields)


# ---- importing scores


def test_imported_scores_have_stamp_0_or_their_own():
    table = ScoreTable(5)
    counts = table.import_scores(1, np.array([1, np.nan, np.inf], np.float32))
    assert (counts.accepted, counts.non_finite) == (1, 1)
    assert np.array_equal(table.score, [np.nan, 1, np.nan, np.nan, np.nan], equal_nan=True)
    table.import_scores(1, np.array([1, 2], np.float32), np.array([3, 4], np.uint16))
    assert table.stamp.tolist() == [0, 3, 4, 0, 0]
    assert push(table, 1, [1], [9.0]).stale == 1


def test_a_sample_without_a_score_has_no_stamp_that_could_refuse_one():
    table = ScoreTable(1)
    table.import_scores(0, np.array([np.nan], np.float32), np.array([7], np.uint16))
    assert push(table, 0, [0], [1.0]).accepted == 1


# ---- Arrow


def test_to_arrow_shares_the_tables_memory():
    table = ScoreTable(4, COLUMNS)
    arrow = table.to_arrow()
    assert arrow.column_names == ["score", "stamp", "visits", "newest", "smooth"]
    assert arrow.schema.types == [pa.float32(), pa.uint16(), pa.uint16(), pa.int32(), pa.float64()]
    own = [table.score, table.stamp, table.visits, *table.extra.values()]
    for column, values in zip(arrow.columns, own, strict=True):
        assert column.chunk(0).buffers()[1].address == values.ctypes.data
        assert column.null_count == 0
    push_all = np.arange(4, dtype=np.int64)
    table.score[push_all] = 2.5
    assert arrow["score"].to_pylist() == [2.5] * 4


# ---- errors


@pytest.mark.parametrize(
    ("epoch", "indices", "scores", "columns", "message"),
    [
        (-1, [0], [1], None, "epoch=-1 is outside [0, 65534)"),
        (65_534, [0], [1], None, "epoch=65534 is outside"),
        (0, [0, 1], [1], None, "indices (2,) and scores (1,) must be (n,) both"),
        (0, [[0]], [[1]], None, "indices (1, 1) and scores (1, 1)"),
        (0, [0, 12], [1, 1], None, "sample index 12 is outside [0, 12)"),
        (0, [-1, 12], [1, 1], None, "sample index -1 is outside"),
        (0, [2**62], [1], None, "sample index 4611686018427387904 is outside"),
        (0, [0], [1], {}, "columns [] were pushed, the policy declares ['newest', 'smooth']"),
        (0, [0], [1], {"newest": [1], "other": [1]}, "columns ['newest', 'other'] were pushed"),
        (0, [0], [1], {"newest": [1], "smooth": [1, 2]}, "column smooth (2,) and scores (1,) differ in shape"),
    ],
)
def test_a_refused_update_names_the_value_and_changes_nothing(epoch, indices, scores, columns, message):
    table = ScoreTable(NUM_SAMPLES, COLUMNS)
    apply(table, 0, [(3, 1.0, 5, 2.0)])
    before = table.to_arrow().combine_chunks().to_pydict()
    given_columns = {"newest": [0] * np.size(scores), "smooth": [0.0] * np.size(scores)} if columns is None else columns
    arrays = {name: np.array(values, np.float64) for name, values in given_columns.items()}
    with pytest.raises(ConfigError, match=re.escape(message)):
        table.update(epoch, np.array(indices, np.int64), np.array(scores, np.float32), arrays)
    assert str(table.to_arrow().to_pydict()) == str(before)


@pytest.mark.parametrize(
    ("first", "scores", "stamps", "message"),
    [
        (-1, [1], None, "samples [-1, 0) are outside [0, 12)"),
        (11, [1, 2], None, "samples [11, 13) are outside [0, 12)"),
        (0, [1, 2], [1], "1 stamps for 2 scores"),
        (0, [1, 2], [1, 65_535], "stamp 65535 is over 65534"),
    ],
)
def test_a_refused_import_changes_nothing(first, scores, stamps, message):
    table = ScoreTable(NUM_SAMPLES)
    with pytest.raises(ConfigError, match=re.escape(message)):
        table.import_scores(
            first, np.array(scores, np.float32), None if stamps is None else np.array(stamps, np.uint16)
        )
    assert not table.num_scored


def test_a_table_has_a_sample():
    with pytest.raises(ConfigError, match="num_samples=0"):
        ScoreTable(0)
