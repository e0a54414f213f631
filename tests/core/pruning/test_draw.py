"""The draw against a slow one, for any classes: Bernoulli by lane, exact by (lane, tie-break word, index)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_stream.philox import Stream, WordStream
from infobatch_stream.pruning.draw import class_sizes, draw_bernoulli, draw_exact, exact_count

WORDS = WordStream(seed=1, epoch=2, generation=3, stream=Stream.DRAW)
TIES = WordStream(seed=1, epoch=2, generation=3, stream=Stream.TIE_BREAK)


def kept_of(drawn, num_samples):
    return np.unpackbits(drawn.keep_bits, count=num_samples, bitorder="little").astype(bool)


def codes_of(drawn, num_samples):
    if drawn.class_plane is None:
        return np.zeros(num_samples, np.uint8)
    if len(drawn.sizes) == 2:
        return np.unpackbits(drawn.class_plane, count=num_samples, bitorder="little")
    return drawn.class_plane


def slow_exact(codes, counts):
    lanes, words = WORDS.lanes(0, len(codes)).tolist(), TIES.words(0, len(codes)).tolist()
    kept = np.zeros(len(codes), bool)
    for code, count in enumerate(counts):
        members = np.flatnonzero(codes == code).tolist()
        kept[sorted(members, key=lambda i: (lanes[i], words[i], i))[:count]] = True
    return kept


@pytest.mark.parametrize(
    ("keep_65536", "size", "count"),
    [
        (32768, 7, 4),
        (32768, 0, 0),
        (0, 7, 0),
        (1, 7, 1),
        (65536, 7, 7),
        (16384, 101, 25),
        (45875, 2**40, 45_875 << 24),
    ],
)
def test_an_exact_draw_keeps_the_rounded_share_and_at_least_one(keep_65536, size, count):
    assert exact_count(keep_65536, size) == count


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 400), st.integers(1, 12), st.data())
def test_bernoulli_keeps_lanes_below_k(num_samples, num_classes, data):
    limits = data.draw(
        st.lists(st.sampled_from([0, 1, 20_000, 32_768, 65_535, 65_536]), min_size=num_classes, max_size=num_classes)
    )
    codes = np.random.default_rng(num_samples).integers(0, num_classes, num_samples, dtype=np.uint8)
    drawn = draw_bernoulli(codes.__getitem__, num_samples, limits, WORDS)
    expected = WORDS.lanes(0, num_samples) < np.array(limits)[codes]
    assert np.array_equal(kept_of(drawn, num_samples), expected)
    assert np.array_equal(codes_of(drawn, num_samples), codes)
    assert drawn.sizes.tolist() == np.bincount(codes, minlength=num_classes).tolist()
    assert drawn.kept.tolist() == np.bincount(codes[expected], minlength=num_classes).tolist()
    assert drawn.sizes.tolist() == class_sizes(codes.__getitem__, num_samples, num_classes).tolist()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 400), st.integers(1, 12), st.data())
def test_exact_keeps_the_smallest_whatever_was_expected(num_samples, num_classes, data):
    codes = np.random.default_rng(num_samples).integers(0, num_classes, num_samples, dtype=np.uint8)
    sizes = np.bincount(codes, minlength=num_classes).tolist()
    counts = [data.draw(st.integers(0, size)) for size in sizes]
    expected = [data.draw(st.sampled_from([0, 1, 32_768, 65_536])) for _ in sizes]
    drawn = draw_exact(codes.__getitem__, num_samples, expected, lambda _: counts, WORDS, TIES)
    assert drawn.kept.tolist() == counts
    assert np.array_equal(kept_of(drawn, num_samples), slow_exact(codes, counts))
    assert np.array_equal(codes_of(drawn, num_samples), codes)


@pytest.mark.parametrize("expected", [None, 0, 1000, 40_000, 65_536])
def test_exact_over_several_blocks_hits_or_misses_its_band_alike(expected):
    num_samples = 300_001
    codes = (np.arange(num_samples) % 100 == 0).astype(np.uint8)  # a class of 1 %: its cut may well miss the band
    counts = [150_000, 1201]
    shares = [65536 * 150_000 // 297_000, 65536 * 1201 // 3001] if expected is None else [expected, expected]
    drawn = draw_exact(codes.__getitem__, num_samples, shares, lambda _: counts, WORDS, TIES)
    assert drawn.kept.tolist() == counts
    assert np.array_equal(kept_of(drawn, num_samples), slow_exact(codes, counts))


@pytest.mark.parametrize("num_samples", [1, 7, 8, 262_143, 262_145])
def test_pad_bits_are_zero(num_samples):
    drawn = draw_bernoulli(lambda part: np.ones(part.stop - part.start, np.uint8), num_samples, [0, 65_536], WORDS)
    for plane in (drawn.keep_bits, drawn.class_plane):
        assert np.unpackbits(plane, bitorder="little").sum() == num_samples


@pytest.mark.statistics
@pytest.mark.parametrize("k", [6554, 32_768, 45_875])
def test_bernoulli_keeps_its_share_within_four_deviations(k):
    num_samples = 10**6
    drawn = draw_bernoulli(lambda part: np.zeros(part.stop - part.start, np.uint8), num_samples, [k], WORDS)
    share = k / 65536
    assert abs(int(drawn.kept[0]) - share * num_samples) < 4 * (num_samples * share * (1 - share)) ** 0.5
