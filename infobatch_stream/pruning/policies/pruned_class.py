"""The class of samples that a score policy prunes: below (or above) a threshold, or a fixed number of the lowest.

Shared by the policies that cut the scores once: `infobatch` keeps a share of the class, `hard` none of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.pruning.draw import CodesOf, class_sizes
from infobatch_stream.pruning.ranking import Ranking
from infobatch_stream.pruning.threshold import mean_threshold, quantile_threshold
from infobatch_stream.ratios import decimal_string, fraction
from infobatch_stream.scores.blocks import Scores, blocks

__all__ = [
    "ODD_SHARE_ADVICE",
    "Cut",
    "beyond",
    "check_threshold",
    "cut_at_threshold",
    "is_odd_share",
    "lowest",
    "normal_threshold",
]


@dataclass(frozen=True, eq=False)
class Cut:
    """The class that a threshold makes: s < t strictly ("low"), or s > t ("high"). An unscored sample is in neither.

    Args:
        score: float32 (N,); NaN where never scored.
        condition: "low" or "high".
        threshold: t; None if nothing is scored.
        num_scored: samples with a score.
    """

    score: Scores
    condition: str
    threshold: float | None
    num_scored: int

    def codes(self, part: slice) -> npt.NDArray[np.uint8]:
        """1 for members of the class, 0 for others, uint8."""
        if self.threshold is None:
            return np.zeros(part.stop - part.start, np.uint8)
        return beyond(self.score[part], np.float32(self.threshold), self.condition).view(np.uint8)

    @cached_property
    def size(self) -> int:
        """Samples in the class."""
        return int(class_sizes(self.codes, len(self.score), 2)[1])


ODD_SHARE_ADVICE = (
    "A few very large scores move a mean, and equal ones leave nothing below it; look at them, or use "
    "threshold='quantile:0.5'"
)
_EXPECTED_SHARE = (0.2, 0.95)


def is_odd_share(threshold: str, share: float | None) -> bool:
    """Whether the class below (or above) a mean is smaller or larger than losses make it. A quantile's never is odd."""
    low, high = _EXPECTED_SHARE
    return threshold == "mean" and share is not None and not low <= share <= high


def check_threshold(threshold: str) -> Fraction | None:
    """The quantile of "quantile:q", or None for "mean"; raises ConfigError for anything else."""
    if threshold == "mean":
        return None
    kind, _, text = threshold.partition(":")
    if kind == "quantile":
        value = fraction(text, "threshold quantile")
        if 0 < value <= 1:
            return value
    raise ConfigError(f"threshold={threshold!r} is neither 'mean' nor 'quantile:q' with q in (0, 1]")


def normal_threshold(threshold: str) -> str:
    """One text for each threshold: "quantile:0.50" is "quantile:0.5".

    Raises:
        ConfigError: neither "mean" nor "quantile:q" with q in (0, 1].
    """
    if check_threshold(threshold) is None:
        return threshold
    return f"quantile:{decimal_string(threshold.partition(':')[2], 'threshold quantile')}"


def cut_at_threshold(score: Scores, threshold: str, condition: str) -> Cut:
    """The samples beyond the threshold of Eq. 3, with the comparison of Eq. 4 (`beyond`).

    Args:
        score: float32 (N,); NaN where never scored.
        threshold: "mean" or "quantile:q".
        condition: "low" or "high".
    """
    quantile = check_threshold(threshold)
    value, num_scored = mean_threshold(score) if quantile is None else quantile_threshold(score, quantile)
    return Cut(score, condition, value, num_scored)


def lowest(score: Scores, count: int, condition: str) -> CodesOf:
    """Codes: 1 for the `count` lowest ("low") or highest ("high") scores, ties by index, 0 for others.

    Args:
        score: float32 (N,); NaN where never scored.
        count: at most the number of scored samples.
        condition: "low" or "high".
    """
    if not count:
        return Cut(score, condition, None, 0).codes
    ranking = Ranking(score)
    value = ranking.smallest(count) if condition == "low" else ranking.largest(count)
    edge = np.float32(value)
    ties_end = _end_of_ties(score, edge, count - Cut(score, condition, value, ranking.num_scored).size)

    def codes(part: slice) -> npt.NDArray[np.uint8]:
        block = score[part]
        members = beyond(block, edge, condition)
        before = max(0, ties_end - part.start)
        members[:before] |= block[:before] == edge
        return members.view(np.uint8)

    return codes


def beyond(score: npt.NDArray[np.float32], edge: np.float32, condition: str) -> npt.NDArray[np.bool_]:
    """Whether a score is below the edge ("low"), or above it ("high"), strictly, bool (n,)."""
    return score < edge if condition == "low" else score > edge  # Eq. 4


def _end_of_ties(score: Scores, edge: np.float32, count: int) -> int:
    """The first sample after the `count`-th that scores exactly `edge`."""
    for part in blocks(len(score)):
        ties = np.flatnonzero(score[part] == edge)
        if len(ties) >= count:
            return int(part.start + ties[count - 1] + 1)
        count -= len(ties)
    raise AssertionError(f"{count} scores too few equal {edge}")
