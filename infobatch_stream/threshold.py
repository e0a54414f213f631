"""The threshold of Eq. 3–4, to the bit: the mean, or a quantile, of all scored samples.

A mean by numpy's own `sum` differs between numpy versions, and one kept as a running sum drifts. Here the sum is
a fixed tree within blocks of 65,536 samples and `math.fsum` over the blocks, so that any two machines agree.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK_SAMPLES", "mean_threshold", "quantile_rank", "quantile_threshold"]

BLOCK_SAMPLES = 65_536
_BLOCKS_AT_ONCE = 16


def mean_threshold(scores: npt.NDArray[np.float32]) -> float | None:
    """The smallest float32 not below the mean of the scored samples, at most the largest score (Eq. 3).

    Args:
        scores: float32 (N,); NaN where never scored.

    Returns:
        t, a float that float32 holds exactly: "low" is s < t, strictly. None where nothing is scored.
    """
    scored, largest = 0, np.float32(-np.inf)
    sums: list[float] = []
    stride = BLOCK_SAMPLES * _BLOCKS_AT_ONCE
    for start in range(0, len(scores), stride):
        part = scores[start : start + stride]
        unscored = np.isnan(part)
        count = len(part) - int(np.count_nonzero(unscored))
        if not count:
            sums.append(0.0)
            continue
        scored += count
        largest = max(largest, np.nanmax(part))
        padded = np.zeros(-(-len(part) // BLOCK_SAMPLES) * BLOCK_SAMPLES, np.float64)
        np.copyto(padded[: len(part)], part, where=~unscored)
        sums.extend(_block_sums(padded.reshape(-1, BLOCK_SAMPLES)))
    if not scored:
        return None
    mean = math.fsum(sums) / scored
    threshold = np.float32(mean)
    if float(threshold) < mean:
        threshold = np.nextafter(threshold, np.float32(np.inf))
    return float(min(threshold, largest))


def quantile_rank(quantile: Fraction, num_scored: int) -> int:
    """⌈q·n⌉, at least 1: which of the n smallest scores is the q-quantile."""
    return max(1, math.ceil(quantile * num_scored))


def quantile_threshold(scores: npt.NDArray[np.float32], quantile: Fraction) -> float | None:
    """The ⌈q·n⌉-th smallest of the n scored samples; None where nothing is scored.

    Args:
        scores: float32 (N,); NaN where never scored.
        quantile: q in (0, 1].
    """
    scored = scores[~np.isnan(scores)]
    if not len(scored):
        return None
    rank = quantile_rank(quantile, len(scored)) - 1
    return float(np.partition(scored, rank)[rank])


def _block_sums(blocks: npt.NDArray[np.float64]) -> list[float]:
    """Sums (b,) of blocks (b, 65536): the second half is added to the first, sixteen times."""
    half = blocks.shape[1] // 2
    while half:
        blocks = blocks[:, :half] + blocks[:, half : 2 * half]
        half //= 2
    sums: list[float] = blocks[:, 0].tolist()
    return sums
