"""The set of dropped samples: what a plain Python set says, by slices and by index arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_stream.scores.dropped import DroppedSamples, WithoutDropped
from infobatch_stream.scores.table import ScoreTable

NUM_SAMPLES = 37
SAMPLES = st.lists(st.integers(0, NUM_SAMPLES - 1), max_size=12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["add", "discard", "clear"]), SAMPLES), max_size=8))
def test_it_holds_what_a_set_holds(steps):
    dropped, expected = DroppedSamples(NUM_SAMPLES), set()
    for step, samples in steps:
        array = np.array(samples, np.int64)
        if step == "add":
            dropped.add(array)
            expected |= set(samples)
        elif step == "discard":
            dropped.discard(array)
            expected -= set(samples)
        else:
            assert dropped.clear() == len(expected)
            expected = set()
        assert dropped.count == len(expected)
        assert np.flatnonzero(dropped[0:NUM_SAMPLES]).tolist() == sorted(expected)


@pytest.mark.parametrize(
    "part", [slice(0, 37), slice(8, 16), slice(3, 30), slice(0, 37, 5), slice(40, 50), slice(5, 5)]
)
def test_a_slice_is_that_of_the_whole(part):
    dropped = DroppedSamples(NUM_SAMPLES)
    assert dropped[part].tolist() == np.zeros(NUM_SAMPLES, bool)[part].tolist()
    dropped.add(np.array([0, 3, 8, 15, 36]))
    whole = np.isin(np.arange(NUM_SAMPLES), [0, 3, 8, 15, 36])
    assert dropped[part].tolist() == whole[part].tolist()
    mask = np.arange(NUM_SAMPLES) % 3 == 0
    assert WithoutDropped(mask, dropped)[part].tolist() == (mask & ~whole)[part].tolist()
    assert WithoutDropped(None, dropped)[part].tolist() == (~whole)[part].tolist()
    indices = np.array([36, 1, 0])
    assert dropped[indices].tolist() == [True, False, True]


def test_a_stored_score_takes_its_sample_back_and_a_refused_one_does_not():
    table = ScoreTable(6)
    table.dropped.add(np.array([1, 2, 3, 4]))
    table.update(5, np.array([1, 2]), np.array([0.5, np.nan], np.float32))
    assert np.flatnonzero(table.dropped[0:6]).tolist() == [2, 3, 4]
    table.stamp[3] = 9  # its score is of a later epoch
    table.update(5, np.array([3]), np.array([0.5], np.float32))
    assert np.flatnonzero(table.dropped[0:6]).tolist() == [2, 3, 4]
