"""What one worker has read and dropped in a pass, noted in memory that it shares with the loop's process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from infobatch_client.workers.kept_pattern import KeptPattern
from infobatch_client.workers.sample_choice import SampleChoice
from infobatch_stream.row_counts import RowCounts

__all__ = ["ReadSamples"]


class ReadSamples:
    """Counts the samples of one worker's part of a pass, and follows the pattern of the kept ones.

    Args:
        choice: of the pass's order.
        noted: int64 (7,), gets the samples that were read, at 1, of these the dropped ones, at 2, and from 3 on the
            pattern's stride and first position, and the judgement of the choice; None: nobody looks.
    """

    def __init__(self, choice: SampleChoice, noted: npt.NDArray[np.int64] | None = None) -> None:
        self.num_read = 0
        self._num_dropped = 0
        self._noted = np.zeros(7, np.int64) if noted is None else noted
        self._pattern = KeptPattern()
        self._choice = choice

    def add_batch(self, counts: RowCounts, planned: npt.NDArray[np.int64] | None, kept: npt.NDArray[np.int64]) -> None:
        """A batch is made.

        Args:
            counts: of its rows.
            planned: the samples that were read for it, in their order, if a stage may drop some.
            kept: the samples of its real rows.
        """
        before = self.num_read
        self.num_read += counts.real + counts.dropped + counts.unreadable
        if planned is not None and not self._pattern.is_broken:
            if counts.unreadable:
                self._pattern.break_off()
            else:
                places = np.flatnonzero(np.isin(planned, kept)) if counts.dropped else np.arange(len(kept))
                self._pattern.add(before + places, self.num_read)
                self.add_read(planned)
            self._note_pattern()
        self._num_dropped += counts.dropped
        self._noted[1:3] = self.num_read, self._num_dropped

    @property
    def seeks_pattern(self) -> bool:
        """Whether `add_kept` still needs to be called."""
        return not self._pattern.is_broken

    def add_read(self, samples: npt.NDArray[np.int64]) -> None:
        """The next samples that are read; with batches, `add_batch` says which."""
        if not self._pattern.is_broken:
            self._choice.add(samples)

    def add_kept(self, positions: Sequence[int]) -> None:
        """Some more were kept, where no batches are made: their positions among all that are read."""
        self._pattern.add(positions, positions[-1] + 1)

    def end(self, num_given: int, num_failed: int) -> None:
        """All samples have been read, where no batches are made, and `num_read` says how many."""
        if num_failed:
            self._pattern.break_off()
        self._noted[1:3] = self.num_read, self.num_read - num_given - num_failed

    def end_kept(self) -> None:
        """`add_kept` was called for all, after `end`."""
        self._pattern.add((), self.num_read)
        self._note_pattern()

    def _note_pattern(self) -> None:
        stride, first = self._pattern.stride, self._pattern.first
        self._noted[3:] = stride, first, *(self._choice.judge(stride, first) if stride > 0 else (0, -1))
