"""The prune schedule: which share of its volume a policy prunes, as points over training progress."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

from infobatch_stream.errors import ConfigError
from infobatch_stream.ratios import decimal_pairs, fraction, pairs_of

__all__ = ["PruneSchedule", "prune_schedule"]

_MAX_POINTS = 200


@dataclass(frozen=True)
class PruneSchedule:
    """Points (progress, share): linear between them, constant before the first and after the last.

    Of two points with the same progress, which make a step, the later one counts at that progress.

    Args:
        points: exact; progress ascends in [0, 1], shares are in [0, 1]. Empty: the share is always 1.

    Example:
        >>> prune_schedule("0:0.2,0.5:0.6,1:0").share(Fraction(1, 4))
        Fraction(2, 5)
    """

    points: tuple[tuple[Fraction, Fraction], ...]

    def share(self, progress: Fraction) -> Fraction:
        """The share at a progress in [0, 1], exactly."""
        if not self.points:
            return Fraction(1)
        reached = bisect_right(self._progress, progress)
        if reached in (0, len(self.points)):
            return self.points[max(0, reached - 1)][1]
        (start, low), (end, high) = self.points[reached - 1 : reached + 1]
        return low + (high - low) * (progress - start) / (end - start)

    @cached_property
    def peak(self) -> Fraction:
        """The largest share."""
        return max((share for _, share in self.points), default=Fraction(1))

    @cached_property
    def _progress(self) -> list[Fraction]:
        return [progress for progress, _ in self.points]


@lru_cache(maxsize=64)
def prune_schedule(text: str) -> PruneSchedule:
    """The schedule of a text such as "0:0.2,0.5:0.6,1:0"; of "", the one that doesn't change anything.

    Raises:
        ConfigError: the text is no list of points, or a point is invalid.
    """
    if not text:
        return PruneSchedule(())
    points = [
        (fraction(progress, "prune_schedule progress"), fraction(share, "prune_schedule share"))
        for progress, share in pairs_of(decimal_pairs(text, "prune_schedule"))
    ]
    if len(points) > _MAX_POINTS:
        raise ConfigError(f"prune_schedule has {len(points)} points; {_MAX_POINTS} are allowed")
    for progress, share in points:
        if not 0 <= progress <= 1:
            raise ConfigError(f"prune_schedule={text}: progress {float(progress):g} is outside [0, 1]")
        if not 0 <= share <= 1:
            raise ConfigError(f"prune_schedule={text}: share {float(share):g} is outside [0, 1]")
    order = [progress for progress, _ in points]
    if order != sorted(order):
        raise ConfigError(f"prune_schedule={text}: progress must ascend")
    if any(first == third for first, third in zip(order, order[2:], strict=False)):
        raise ConfigError(f"prune_schedule={text}: more than two points have the same progress")
    return PruneSchedule(tuple(points))
