"""The draw: which samples of each class are kept (Eq. 4), by one counter-based uniform per sample.

Bernoulli is the paper's rule, each sample for itself. Exact keeps a fixed number of each class, so that every
epoch has the same length. Both are the same bits everywhere, in any order of computing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from infobatch_stream.philox import WordStream
from infobatch_stream.ratios import LANES

__all__ = ["draw_bernoulli", "draw_counts", "exact_count"]

_BLOCK = 1 << 20


def exact_count(keep_65536: int, size: int) -> int:
    """m = max(1, (k·n + 32768) >> 16) of a class of n, or 0 where n or k is 0."""
    if not keep_65536 or not size:
        return 0
    return max(1, (keep_65536 * size + LANES // 2) >> 16)


def draw_bernoulli(
    codes: npt.NDArray[np.uint8], keep_65536: npt.NDArray[np.uint32], stream: WordStream
) -> npt.NDArray[np.bool_]:
    """Keeps sample i iff its lane is below its class's k.

    Args:
        codes: class codes uint8 (N,).
        keep_65536: k by code, uint32 (classes,), each in [0, 65536].
        stream: the draw's words.

    Returns:
        bool (N,).
    """
    kept = np.empty(len(codes), bool)
    for start in range(0, len(codes), _BLOCK):
        part = codes[start : start + _BLOCK]
        np.less(stream.lanes(start, start + len(part)), keep_65536[part], out=kept[start : start + len(part)])
    return kept


def draw_counts(
    codes: npt.NDArray[np.uint8],
    counts: npt.NDArray[np.int64],
    stream: WordStream,
    tie_break: WordStream,
) -> npt.NDArray[np.bool_]:
    """Keeps of each class the given number: the smallest by (lane, word of the tie-break stream, index).

    Args:
        codes: class codes uint8 (N,).
        counts: samples to keep by code, int64 (classes,), each in [0, size of the class].
        stream: the draw's words.
        tie_break: decides between equal lanes.

    Returns:
        bool (N,).
    """
    histogram = np.zeros((len(counts), LANES), np.int64)
    for start in range(0, len(codes), _BLOCK):
        part = codes[start : start + _BLOCK]
        lanes = stream.lanes(start, start + len(part)).astype(np.int64)
        joined = np.bincount(part.astype(np.int64) * LANES + lanes, minlength=histogram.size)
        histogram += joined.reshape(histogram.shape)
    below = np.cumsum(histogram, axis=1)
    # A class's cut: lanes under it are kept, lanes equal to it as far as the count reaches.
    cuts = np.array([np.searchsorted(row, count) for row, count in zip(below, counts, strict=True)])
    room = counts - np.where(cuts > 0, below[np.arange(len(cuts)), np.minimum(cuts, LANES) - 1], 0)
    kept, at_cut = _split_at(codes, cuts.astype(np.uint32), stream)
    for code, free in enumerate(room.tolist()):
        tied = at_cut[codes[at_cut] == code]
        if free and len(tied):
            words = tie_break.words_at(tied)
            kept[tied[np.argsort(words, kind="stable")[:free]]] = True
    return kept


def _split_at(
    codes: npt.NDArray[np.uint8], cuts: npt.NDArray[np.uint32], stream: WordStream
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Samples whose lane is below their class's cut, bool (N,), and the indices of those that lie on it."""
    kept = np.empty(len(codes), bool)
    ties = []
    for start in range(0, len(codes), _BLOCK):
        part = codes[start : start + _BLOCK]
        lanes, cut = stream.lanes(start, start + len(part)), cuts[part]
        np.less(lanes, cut, out=kept[start : start + len(part)])
        ties.append(np.flatnonzero(lanes == cut) + start)
    return kept, np.concatenate(ties) if ties else np.empty(0, np.int64)
