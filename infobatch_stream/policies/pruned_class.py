"""The class of samples that a score policy prunes: below (or above) a threshold, or a fixed number of the lowest.

Shared by the policies that cut the scores once: `infobatch` keeps a share of the class, `hard` none of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.ratios import fraction
from infobatch_stream.threshold import mean_threshold, quantile_threshold

__all__ = ["Cut", "check_condition", "check_threshold", "cut_at_threshold", "lowest"]


@dataclass(frozen=True)
class Cut:
    """The class and what made it: members bool (N,), their number, the scored samples, the threshold."""

    members: npt.NDArray[np.bool_]
    size: int
    num_scored: int
    threshold: float | None

    @property
    def share(self) -> float | None:
        """The class's share of the scored samples."""
        return self.size / self.num_scored if self.num_scored else None


def check_condition(condition: str) -> None:
    """Raises ConfigError unless "low" or "high"."""
    if condition not in ("low", "high"):
        raise ConfigError(f"condition={condition!r} is neither 'low' nor 'high'")


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


def cut_at_threshold(score: npt.NDArray[np.float32], threshold: str, condition: str) -> Cut:
    """Eq. 3–4's class: s < t strictly ("low"), or s > t ("high"). An unscored sample is in neither.

    Args:
        score: float32 (N,); NaN where never scored.
        threshold: "mean" or "quantile:q".
        condition: "low" or "high".
    """
    quantile = check_threshold(threshold)
    value = mean_threshold(score) if quantile is None else quantile_threshold(score, quantile)
    num_scored = len(score) - int(np.count_nonzero(np.isnan(score)))
    if value is None:
        return Cut(np.zeros(len(score), bool), 0, 0, None)
    edge = np.float32(value)
    members = score < edge if condition == "low" else score > edge
    return Cut(members, int(np.count_nonzero(members)), num_scored, value)


def lowest(score: npt.NDArray[np.float32], count: int, condition: str) -> npt.NDArray[np.bool_]:
    """The `count` lowest ("low") or highest ("high") scores, ties by index, as bool (N,).

    Args:
        score: float32 (N,); NaN where never scored.
        count: at most the number of scored samples.
    """
    members = np.zeros(len(score), bool)
    if not count:
        return members
    scored = score[~np.isnan(score)]
    if condition == "low":
        edge = np.partition(scored, count - 1)[count - 1]
        np.less(score, edge, out=members)
    else:
        edge = np.partition(scored, len(scored) - count)[len(scored) - count]
        np.greater(score, edge, out=members)
    ties = np.flatnonzero(score == edge)
    members[ties[: count - int(np.count_nonzero(members))]] = True
    return members
