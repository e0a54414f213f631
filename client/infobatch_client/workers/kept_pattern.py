"""Whether what one worker keeps of its samples is every n-th of them, by position: the mark of a splitting stage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["KeptPattern", "can_be_every"]

BROKEN = -1


class KeptPattern:
    """The positions of what was kept, among the samples that a worker has read in a pass, as an arithmetic series.

    Attributes:
        stride: between kept positions; 0 while fewer than two are known, BROKEN once they aren't equally far apart, the
            series doesn't begin with the first `stride` samples, or doesn't go on to the last ones.
        first: the first kept position; -1 before it.
    """

    def __init__(self) -> None:
        self.stride, self.first = 0, -1
        self._last = -1

    @property
    def is_broken(self) -> bool:
        """Whether nothing more needs to be added."""
        return self.stride == BROKEN

    def break_off(self) -> None:
        """Something else than a stage's choice took samples away."""
        self.stride = BROKEN

    def add(self, kept: Sequence[int] | npt.NDArray[np.int64], num_read: int) -> None:
        """Adds positions, ascending and behind those before.

        Args:
            kept: the positions that were kept of those read since the last call.
            num_read: samples read so far in the pass.
        """
        if self.is_broken:
            return
        positions = np.asarray(kept, np.int64)
        if len(positions):
            if self.first < 0:
                self.first = int(positions[0])
                steps = np.diff(positions)
            else:
                steps = np.diff(positions, prepend=self._last)
            self._last = int(positions[-1])
            if len(steps):
                self.stride = self.stride or int(steps[0])
                if self.stride < 2 or not (steps == self.stride).all():
                    self.stride = BROKEN
        if self.stride > 0 and not (self.first < self.stride and num_read - self._last <= self.stride):
            self.stride = BROKEN


def can_be_every(n: int, stride: int, first: int, num_read: int) -> bool:
    """Whether a worker's pattern is, or may still become, every n-th of its samples."""
    if stride:
        return stride == n
    return first < n and num_read <= n + first
