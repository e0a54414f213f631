"""The samples that a pipeline has dropped: one bit each, allocated when there is the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infobatch_stream.scores.blocks import Mask

__all__ = ["DroppedSamples", "WithoutDropped"]


class DroppedSamples:
    """A set of samples of [0, N).

    Not safe for concurrent writers, like the table that holds it.

    Args:
        num_samples: N.

    Attributes:
        count: samples in the set.

    Example:
        >>> dropped = DroppedSamples(10)
        >>> dropped.add(np.array([3, 8, 3]))
        >>> dropped.count, dropped[2:5].tolist()
        (2, [False, True, False])
    """

    def __init__(self, num_samples: int) -> None:
        self.count = 0
        self._num_samples = num_samples
        self._bits: npt.NDArray[np.uint8] | None = None  # (⌈N/8⌉,), LSB first

    def add(self, samples: npt.NDArray[np.int64]) -> None:
        """Adds samples (n,), each in [0, N); repeats are one."""
        if not len(samples):
            return
        if self._bits is None:
            self._bits = np.zeros(-(-self._num_samples // 8), np.uint8)
        new = np.unique(samples)
        new = new[~self._contains(new)]
        np.bitwise_or.at(self._bits, new >> 3, _bit(new))
        self.count += len(new)

    def discard(self, samples: npt.NDArray[np.int64]) -> None:
        """Takes samples (n,) out of the set, those that are in it."""
        if self._bits is None or not self.count:
            return
        found = np.unique(samples[self._contains(samples)])
        np.bitwise_and.at(self._bits, found >> 3, ~_bit(found))
        self.count -= len(found)

    def clear(self) -> int:
        """Empties the set; returns how many samples were in it."""
        count, self.count, self._bits = self.count, 0, None
        return count

    def __getitem__(self, part: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether samples are in the set, bool (n,): those of a slice of [0, N), or of an index array (n,)."""
        if not isinstance(part, slice):
            return self._contains(part)
        start, stop, step = part.indices(self._num_samples)
        if self._bits is None:
            return np.zeros(len(range(start, stop, step)), bool)
        if step != 1:
            return self._contains(np.arange(start, stop, step))
        first = start // 8
        bits = np.unpackbits(self._bits[first : -(-stop // 8)], bitorder="little")
        return bits[start - 8 * first : stop - 8 * first].view(np.bool_)

    def _contains(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        if self._bits is None:
            return np.zeros(len(samples), bool)
        found: npt.NDArray[np.bool_] = (self._bits[samples >> 3] & _bit(samples)) != 0
        return found


@dataclass(frozen=True, eq=False)
class WithoutDropped:
    """A mask without the samples that were dropped, by slices or index arrays; mask None: all samples."""

    mask: Mask | None
    dropped: DroppedSamples

    def __getitem__(self, part: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        left = ~self.dropped[part]
        return left if self.mask is None else left & self.mask[part]


def _bit(samples: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    bits: npt.NDArray[np.uint8] = np.left_shift(1, samples & 7).astype(np.uint8)
    return bits
