"""The k-th smallest score without a sort or a copy: a probe says about where it lies, and one pass finds it.

The probe only saves passes: whatever it holds, even nothing, the answer is exact.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from infobatch_stream.philox import Stream, WordStream
from infobatch_stream.scores.blocks import Scores, blocks, count_scored

__all__ = ["Ranking"]

_PROBE = 1 << 16
_PROBE_SD = 4
_PROBE_WORDS = WordStream(seed=0, epoch=0, generation=0, stream=Stream.POLICY)  # no plan uses generation 0
_COLLECT = 1 << 23
_SIGN = 1 << 31


class Ranking:
    """Scored samples by rank. −0.0 counts as 0.0, as it does when scores are compared.

    Args:
        scores: float32 (N,); NaN where never scored. Unchanged while this lives.

    Attributes:
        num_scored: samples that have a score.

    Example:
        >>> Ranking(np.array([3, np.nan, 1, 2], np.float32)).smallest(2)
        2.0
    """

    def __init__(self, scores: Scores) -> None:
        self._scores = scores
        self.num_scored = count_scored(scores)
        probe = scores[_probe_places(len(scores))]
        self._probe = np.sort(probe[~np.isnan(probe)])

    def smallest(self, rank: int) -> float:
        """The `rank`-th smallest score, rank in [1, num_scored]."""
        assert 1 <= rank <= self.num_scored
        floor, ceiling = _key(-math.inf), _key(math.inf)  # the answer lies between them
        low, high = self._bracket(rank)
        while True:
            below, inside, values = self._between(_value(low), _value(high))
            if rank <= below:
                ceiling = low - 1
            elif rank > below + inside:
                floor = high + 1
            elif values is not None:
                values.partition(rank - below - 1)
                return float(values[rank - below - 1]) + 0.0
            else:
                floor, ceiling = low, high
            if floor == ceiling:
                return float(_value(floor)) + 0.0
            low, high = floor, (floor + ceiling) // 2

    def largest(self, rank: int) -> float:
        """The `rank`-th largest score, rank in [1, num_scored]."""
        return self.smallest(self.num_scored + 1 - rank)

    def _bracket(self, rank: int) -> tuple[int, int]:
        """Keys [low, high] between which the probe puts a rank."""
        size = len(self._probe)
        place, reach = rank * size // self.num_scored, _PROBE_SD * (math.isqrt(size) + 1)
        low = _key(float(self._probe[place - reach])) if place - reach >= 0 else _key(-math.inf)
        high = _key(float(self._probe[place + reach])) if place + reach < size else _key(math.inf)
        return low, high

    def _between(self, low: np.float32, high: np.float32) -> tuple[int, int, npt.NDArray[np.float32] | None]:
        """Scores below `low`; scores in [low, high]; and those, unless they are too many to hold."""
        below, inside = 0, 0
        members: list[npt.NDArray[np.float32]] = []
        for part in blocks(len(self._scores)):
            block = self._scores[part]
            below += int(np.count_nonzero(block < low))
            chosen = block >= low
            chosen &= block <= high
            inside += int(np.count_nonzero(chosen))
            if inside <= _COLLECT:
                members.append(block[np.flatnonzero(chosen)])
            else:
                members.clear()
        return below, inside, np.concatenate(members) if inside <= _COLLECT else None


def _probe_places(num_samples: int) -> npt.NDArray[np.int64]:
    """Ascending sample indices, int64: all, or one at random of each of up to 2¹⁶ equal parts.

    Places at a fixed distance would all miss scores that repeat with a period, as those of every other sample do.
    """
    width = -(-num_samples // _PROBE)
    if width <= 1:
        return np.arange(num_samples)
    starts = np.arange(0, num_samples, width)
    widths = np.minimum(width, num_samples - starts)
    return starts + (_PROBE_WORDS.words(0, len(starts)) % widths.astype(np.uint64)).astype(np.int64)


def _key(value: float) -> int:
    """An integer in [0, 2³²) that orders as float32 values do: all bits of a negative one flip, else the sign."""
    bits = int(np.float32(value).view(np.uint32))
    return bits ^ (2 * _SIGN - 1) if bits & _SIGN else bits | _SIGN


def _value(key: int) -> np.float32:
    """The float32 of a key."""
    bits = key ^ _SIGN if key & _SIGN else key ^ (2 * _SIGN - 1)
    value: np.float32 = np.uint32(bits).view(np.float32)
    return value
