"""The draw: which samples of each class are kept, by one counter-based uniform per sample.

Bernoulli is the paper's rule (Eq. 4 gives the probability), each sample by itself. Exact keeps a fixed number of each
class, so that every epoch has the same length. Both are the same bits everywhere, in any order of computing, and both
go through the samples block by block: they hold no more than the plan's own bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infobatch_stream.philox import WordStream
from infobatch_stream.ratios import LANES
from infobatch_stream.scores.blocks import blocks

__all__ = ["CodesOf", "Drawn", "class_sizes", "draw_bernoulli", "draw_exact", "exact_count"]

CodesOf = Callable[[slice], npt.NDArray[np.uint8]]
"""Class codes of consecutive samples, uint8, for a slice [start:stop] of them."""

_FEW_CLASSES = 8
_FEW_TALLIED = 32
_BAND_SD = 8
_NO_SAMPLES = np.empty(0, np.int64)
_NO_LANES = np.empty(0, np.uint16)


@dataclass(frozen=True, eq=False)
class Drawn:
    """The outcome of a draw.

    Args:
        keep_bits: uint8 (⌈N/8⌉,), one bit a sample, LSB first.
        class_plane: uint8: None for one class, (⌈N/8⌉,) bits for two, (N,) codes for more.
        sizes: samples by class, int64 (classes,).
        kept: kept samples by class, int64 (classes,).
    """

    keep_bits: npt.NDArray[np.uint8]
    class_plane: npt.NDArray[np.uint8] | None
    sizes: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]

    @classmethod
    def blank(cls, num_samples: int, num_classes: int) -> Drawn:
        """Room for N samples, nothing kept."""
        num_bytes = -(-num_samples // 8)
        plane = np.empty(num_bytes if num_classes == 2 else num_samples, np.uint8) if num_classes > 1 else None
        tally = np.zeros((2, num_classes), np.int64)
        return cls(np.zeros(num_bytes, np.uint8), plane, tally[0], tally[1])

    def put(self, part: slice, codes: npt.NDArray[np.uint8], kept: npt.NDArray[np.bool_]) -> None:
        """Stores a block of codes, and which of its samples are kept."""
        bits = slice(part.start // 8, -(-part.stop // 8))
        self.keep_bits[bits] = np.packbits(kept, bitorder="little")
        if self.class_plane is not None and len(self.sizes) == 2:
            self.class_plane[bits] = np.packbits(codes, bitorder="little")
        elif self.class_plane is not None:
            self.class_plane[part] = codes
        self.sizes[:] += _tally(codes, len(self.sizes))
        self.kept[:] += _tally(codes, len(self.sizes), kept)

    def add(self, samples: npt.NDArray[np.int64], code: int) -> None:
        """Keeps samples (n,) of a class that were not kept before."""
        np.bitwise_or.at(self.keep_bits, samples >> 3, np.uint8(1) << (samples & 7).astype(np.uint8))
        self.kept[code] += len(samples)


def exact_count(keep_65536: int, size: int) -> int:
    """m = max(1, (k·n + 32768) >> 16) of a class of n, or 0 if n or k is 0."""
    if not keep_65536 or not size:
        return 0
    return max(1, (keep_65536 * size + LANES // 2) >> 16)


def class_sizes(codes: CodesOf, num_samples: int, num_classes: int) -> npt.NDArray[np.int64]:
    """Samples by class, int64 (classes,)."""
    sizes = np.zeros(num_classes, np.int64)
    for part in blocks(num_samples):
        sizes += _tally(codes(part), num_classes)
    return sizes


def draw_bernoulli(codes: CodesOf, num_samples: int, keep_65536: Sequence[int], stream: WordStream) -> Drawn:
    """Keeps sample i iff its lane is below its class's k.

    Args:
        codes: class codes by the block.
        num_samples: N.
        keep_65536: k by code, each in [0, 65536].
        stream: the draw's words.
    """
    drawn = Drawn.blank(num_samples, len(keep_65536))
    chance = any(0 < k < LANES for k in keep_65536)
    for part in blocks(num_samples):
        block = codes(part)
        lanes = stream.lanes(part.start, part.stop) if chance else np.zeros(len(block), np.uint16)
        drawn.put(part, block, _below(block, lanes, keep_65536))
    return drawn


def draw_exact(
    codes: CodesOf,
    num_samples: int,
    expected_65536: Sequence[int],
    counts_of: Callable[[npt.NDArray[np.int64]], Sequence[int]],
    stream: WordStream,
    tie_break: WordStream,
) -> Drawn:
    """Keeps of each class a fixed number: the smallest by (lane, word of the tie-break stream, index).

    The lane of the last kept sample lies near the class's expected share. One pass keeps the samples below a band
    around that, and remembers those inside it, which the counts then decide. If a cut misses its band, as that of a
    class much smaller than the data set may, a second pass has the band at the right place.

    Args:
        codes: class codes by the block.
        num_samples: N.
        expected_65536: the share of each class that is to be kept, of 65,536, as well as it is known.
        counts_of: sizes (classes,) → samples to keep by code, each in [0, size].
        stream: the draw's words.
        tie_break: decides between equal lanes.
    """
    bands = [_band(k, num_samples / 16) for k in expected_65536]
    while True:
        drawn, inside = _sweep(codes, num_samples, bands, stream)
        counts = counts_of(drawn.sizes)
        wanted = [count - kept for count, kept in zip(counts, drawn.kept.tolist(), strict=True)]
        missed = [code for code, more in enumerate(wanted) if not 0 <= more <= len(inside[code][0])]
        if not missed:
            break
        for code in missed:
            size = int(drawn.sizes[code])
            bands[code] = _band(LANES * counts[code] // size, size, bands[code])
    for code, more in enumerate(wanted):
        if more:
            drawn.add(_smallest(*inside[code], more, tie_break), code)
    return drawn


def _band(expected_65536: int, size: float, missed: tuple[int, int] | None = None) -> tuple[int, int]:
    """Lanes [low, high) that hold the cut of a class of `size`, all but surely; wider than a band that missed it."""
    if missed is None and expected_65536 in (0, LANES):
        return expected_65536, expected_65536
    share = expected_65536 / LANES
    reach = math.ceil(_BAND_SD * LANES * math.sqrt(max(share * (1 - share), 1 / size) / size)) + 2
    low, high = max(0, expected_65536 - reach), min(LANES, expected_65536 + reach)
    if missed is not None and missed[0] <= low and high <= missed[1]:
        return 0, LANES
    return low, high


def _sweep(
    codes: CodesOf, num_samples: int, bands: Sequence[tuple[int, int]], stream: WordStream
) -> tuple[Drawn, list[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]]]:
    """Keeps the samples below their class's band; returns, by class, those inside the band and their lanes."""
    lows = [low for low, _ in bands]
    drawn = Drawn.blank(num_samples, len(bands))
    in_band: list[list[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]]] = [[] for _ in bands]
    for part in blocks(num_samples):
        block, lanes = codes(part), stream.lanes(part.start, part.stop)
        drawn.put(part, block, _below(block, lanes, lows))
        for code, ((low, high), members) in enumerate(zip(bands, in_band, strict=True)):
            if low < high:
                # Few lanes are in a band: it comes before the class. Below `low`, the difference wraps around.
                near = np.flatnonzero(lanes - np.uint16(low) <= np.uint16(high - low - 1))
                near = near[block[near] == code]
                members.append((near + part.start, lanes[near]))
    return drawn, [
        (
            np.concatenate([_NO_SAMPLES, *(samples for samples, _ in members)]),
            np.concatenate([_NO_LANES, *(lanes for _, lanes in members)]),
        )
        for members in in_band
    ]


def _smallest(
    samples: npt.NDArray[np.int64], lanes: npt.NDArray[np.uint16], count: int, tie_break: WordStream
) -> npt.NDArray[np.int64]:
    """The `count` smallest of samples (n,), which ascend, by (lane, tie-break word, index), int64 (count,)."""
    cut = np.partition(lanes, count - 1)[count - 1]
    below, tied = samples[lanes < cut], samples[lanes == cut]
    words = tie_break.words_at(tied)
    return np.concatenate([below, tied[np.argsort(words, kind="stable")[: count - len(below)]]])


def _below(codes: npt.NDArray[np.uint8], lanes: npt.NDArray[np.uint16], limits: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Whether each lane is below the limit, in [0, 65536], of its sample's class, bool (n,)."""
    if len(limits) > _FEW_CLASSES:
        by_code: npt.NDArray[np.bool_] = lanes < np.array(limits, np.uint32).take(codes)
        return by_code
    below = np.zeros(len(codes), bool)
    for code, limit in enumerate(limits):
        if not limit:
            continue
        members = codes == code
        if limit < LANES:
            members &= lanes < np.uint16(limit)
        below |= members
    return below


def _tally(
    codes: npt.NDArray[np.uint8], num_classes: int, chosen: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.int64]:
    """Samples, or those `chosen`, by class, int64 (classes,)."""
    if num_classes > _FEW_TALLIED:
        # Others count as classes from 256 on: to select the chosen ones would take longer.
        apart = codes if chosen is None else np.where(chosen, np.uint16(0), np.uint16(256)) + codes
        return np.bincount(apart, minlength=num_classes)[:num_classes]
    counts = np.zeros(num_classes, np.int64)
    for code in range(1, num_classes):
        members = codes == code
        if chosen is not None:
            members &= chosen
        counts[code] = np.count_nonzero(members)
    counts[0] = (len(codes) if chosen is None else np.count_nonzero(chosen)) - counts.sum()
    return counts
