"""The threshold of Eq. 3, to the bit: the mean, or a quantile, of all scored samples.

A mean by numpy's own `sum` differs between numpy versions, and one kept as a running sum drifts. Here the sum is
a fixed tree within blocks of 65,536 samples and `math.fsum` over the blocks, so that any two machines agree.

This is not `math.fsum` of all scores, which takes 60 times as long. The two means differ by at most 2e-15 of the mean
of |score|. A float32 shows that only where scores of both signs cancel each other to less than 1/10⁷ of their size.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from infobatch_stream.pruning.ranking import Ranking
from infobatch_stream.scores.blocks import Scores, blocks

__all__ = ["BLOCK_SAMPLES", "Threshold", "mean_threshold", "quantile_rank", "quantile_threshold"]

BLOCK_SAMPLES = 65_536


class Threshold(NamedTuple):
    """A threshold that float32 holds exactly, None if nothing is scored; and the number of scored samples."""

    value: float | None
    num_scored: int


def mean_threshold(scores: Scores) -> Threshold:
    """The smallest float32 not below the mean of the scored samples, at most the largest score (Eq. 3).

    Args:
        scores: float32 (N,); NaN where never scored.

    Example:
        >>> mean_threshold(np.array([1, 2, np.nan], np.float32))
        Threshold(value=1.5, num_scored=2)
    """
    num_scored, largest = 0, np.float32(-np.inf)
    sums: list[float] = []
    room = np.empty(BLOCK_SAMPLES, np.float64)
    for part in blocks(len(scores), BLOCK_SAMPLES):
        block = scores[part]
        unscored = np.isnan(block)
        count = len(block) - int(np.count_nonzero(unscored))
        if not count:
            continue
        num_scored += count
        largest = max(largest, np.fmax.reduce(block))
        room[: len(block)] = block
        room[len(block) :] = 0.0
        if count < len(block):
            np.copyto(room[: len(block)], 0.0, where=unscored)
        sums.append(_block_sum(room))
    if not num_scored:
        return Threshold(None, 0)
    mean = math.fsum(sums) / num_scored
    threshold = min(np.float32(mean), largest)
    if float(threshold) < mean and threshold < largest:
        threshold = np.nextafter(threshold, largest)
    return Threshold(float(threshold) + 0.0, num_scored)


def quantile_rank(quantile: Fraction, num_scored: int) -> int:
    """⌈q·n⌉, at least 1: which of the n smallest scores is the q-quantile."""
    return max(1, math.ceil(quantile * num_scored))


def quantile_threshold(scores: Scores, quantile: Fraction) -> Threshold:
    """The ⌈q·n⌉-th smallest of the n scored samples.

    Args:
        scores: float32 (N,); NaN where never scored.
        quantile: q in (0, 1].
    """
    ranking = Ranking(scores)
    if not ranking.num_scored:
        return Threshold(None, 0)
    rank = quantile_rank(quantile, ranking.num_scored)
    return Threshold(ranking.smallest(rank), ranking.num_scored)


def _block_sum(room: npt.NDArray[np.float64]) -> float:
    """The sum of a block (65536,), which it overwrites: the second half is added to the first, sixteen times."""
    half = len(room) // 2
    while half:
        np.add(room[:half], room[half : 2 * half], out=room[:half])
        half //= 2
    return float(room[0])
