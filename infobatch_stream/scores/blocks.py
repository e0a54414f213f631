"""Scores by the block, as thresholds and policies read them: no step of a plan holds a second copy of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["GatheredScores", "Mask", "MaskedScores", "Scores", "blocks", "count_scored"]

_BLOCK = 1 << 18


class Scores(Protocol):
    """float32 (N,), NaN where never scored, read in slices or at indices, int64 (n,); a numpy array is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice | npt.NDArray[np.int64], /) -> npt.NDArray[np.float32]: ...


class Mask(Protocol):
    """bool (N,), read in slices or at indices, int64 (n,); a numpy array is one."""

    def __getitem__(self, part: slice | npt.NDArray[np.int64], /) -> npt.NDArray[np.bool_]: ...


@dataclass(frozen=True, eq=False)
class MaskedScores:
    """Scores (N,) that are NaN outside a mask (N,), without a copy of the table."""

    score: npt.NDArray[np.float32]
    mask: Mask

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, part: slice | npt.NDArray[np.int64], /) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = self.score[part].copy()
        np.copyto(values, np.float32(np.nan), where=~self.mask[part])
        return values


class GatheredScores:
    """The scores of some ranges, one behind the other, without a copy of the table.

    Args:
        score: float32 (N,).
        starts: int64 (R,), ascending.
        stops: int64 (R,), each above its start, and at most the next start.
    """

    def __init__(self, score: Scores, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> None:
        self._score = score
        self._starts = starts
        self._ends = np.cumsum(stops - starts)
        self._shifts = stops - self._ends  # from a place among these to the sample

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, part: slice | npt.NDArray[np.int64], /) -> npt.NDArray[np.float32]:
        if not isinstance(part, slice):
            return self._score[part + self._shifts[np.searchsorted(self._ends, part, side="right")]]
        start, stop, step = part.indices(len(self))
        assert step == 1
        if start >= stop:
            return np.empty(0, np.float32)
        first, last = (int(run) for run in np.searchsorted(self._ends, [start, stop - 1], side="right"))
        edges = [start, *self._ends[first:last].tolist(), stop]
        pieces = [
            self._score[slice(begin + shift, end + shift)]
            for begin, end, shift in zip(edges, edges[1:], self._shifts[first : last + 1].tolist(), strict=False)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def blocks(num_samples: int, size: int = _BLOCK) -> Iterator[slice]:
    """[0, N) in consecutive slices; `size` is a multiple of 8, so that each begins a byte of packed bits."""
    for start in range(0, num_samples, size):
        yield slice(start, min(start + size, num_samples))


def count_scored(scores: Scores) -> int:
    """Samples that have a score."""
    return len(scores) - sum(int(np.count_nonzero(np.isnan(scores[part]))) for part in blocks(len(scores)))
