"""Words and lanes: computed independently, without global state, and no word for two purposes."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_stream.errors import ConfigError
from infobatch_stream.philox import MAX_GENERATION, Stream, WordStream

STREAM = WordStream(seed=7, epoch=3, generation=2, stream=Stream.DRAW)


def slow_block(key, counter):
    """Philox4x64-10 in Python's integers (Salmon et al. 2011)."""
    mask = 2**64 - 1
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c0, 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * c2, 2**64)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return [c0, c1, c2, c3]


@pytest.mark.parametrize("index", [0, 1, 4, 7, 1001, 2**40 + 3])
def test_word_i_is_word_i_mod_4_of_a_philox_block(index):
    key = (7, 3 << 32 | 2 << 8 | 0)
    assert STREAM.words(index, index + 1).tolist() == [slow_block(key, (index // 4 + 1, 0, 0, 0))[index % 4]]


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.integers(0, 300), st.integers(0, 300))
def test_any_range_of_words_or_lanes_is_a_slice_of_the_whole(start, length):
    assert np.array_equal(STREAM.words(start, start + length), STREAM.words(0, 600)[start : start + length])
    assert np.array_equal(STREAM.lanes(start, start + length), STREAM.lanes(0, 600)[start : start + length])


def test_sparse_words_equal_those_of_the_dense_range():
    positions = np.array([0, 1, 5, 1029, 1030, 9000, 30_000], np.int64)
    assert np.array_equal(STREAM.words_at(positions), STREAM.words(0, 30_001)[positions])
    assert len(STREAM.words_at(positions[:0])) == len(STREAM.words(5, 5)) == len(STREAM.lanes(5, 5)) == 0


def test_no_two_purposes_share_words():
    keys = itertools.product((0, 1), (0, 1, 256), (0, 1, 2), Stream)
    firsts = [WordStream(*key).words(0, 1)[0] for key in keys]
    assert len(set(firsts)) == len(firsts)


def test_global_generators_are_not_touched():
    before = np.random.get_state()[1].copy()
    STREAM.lanes(0, 100)
    assert np.array_equal(np.random.get_state()[1], before)


def test_a_stream_survives_pickling():
    assert np.array_equal(pickle.loads(pickle.dumps(STREAM)).words(0, 9), STREAM.words(0, 9))


@pytest.mark.parametrize(
    ("field", "value"), [("seed", -1), ("seed", 2**64), ("epoch", 2**32), ("generation", MAX_GENERATION + 1)]
)
def test_numbers_that_would_overlap_in_the_key_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"{field}={value} is outside"):
        WordStream(**{"seed": 0, "epoch": 0, "generation": 0, "stream": Stream.DRAW, field: value})
