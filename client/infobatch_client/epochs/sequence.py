"""The order of a loop's epochs: opens the next one, begins it again, and ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from infobatch_client.epochs.holder import Holder
from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.epochs.source import EpochSource, TrainingSource
from infobatch_stream.errors import ConfigError
from infobatch_stream.plan.opening import Opening
from infobatch_stream.ratios import whole_number

__all__ = ["EpochSequence"]


class EpochSequence:
    """The epochs of one loop, one open at a time. For the loop's thread.

    Args:
        source: opens epochs and, in training, takes their ends.
        holder: the object that the user holds.
        opening: (num_positions, start) of an epoch → its steps.

    `open` is the open epoch; after `close()` the last one, of which progress and state can still be read.
    """

    def __init__(self, source: EpochSource, holder: Holder, opening: Callable[[int, int], Opening]) -> None:
        self.open: OpenEpoch | None = None
        self.closed = False
        self._source = source
        self._run = source if isinstance(source, TrainingSource) else None
        self._holder = holder
        self._opening = opening

    def epochs(self, max_steps: SupportsIndex | None = None) -> Iterator[int]:
        """As `InfoBatchLoader.epochs`."""
        return self._epochs(None if max_steps is None else whole_number(max_steps, "max_steps", 1))

    def set_epoch(self, number: SupportsIndex) -> None:
        """As `InfoBatchLoader.set_epoch`."""
        epoch = whole_number(number, "epoch")
        self._check_not_closed()
        if self._run is None:
            self.end()
            self._source.begin_at(epoch)
            self._begin(explicit=True)
            return
        if self.open is not None and self.open.number == epoch and self._begin_again():
            return
        self._check_is_next(epoch, self._run)
        self.end()
        before = self._source.next_epoch
        self._source.begin_at(epoch)
        try:
            self._begin(explicit=True)
        except BaseException:
            self._source.begin_at(before)
            raise

    def for_pass(self) -> OpenEpoch:
        """The epoch that a new pass goes over, from the position at which it was opened.

        Opens the next one if none is open, or if the open one is over and wasn't opened explicitly.

        Raises:
            ConfigError: closed, or batches of an epoch that was opened explicitly have been updated already.
        """
        self._check_not_closed()
        epoch = self.open
        if epoch is not None and epoch.updated and epoch.explicit:
            raise self._holder.second_pass(epoch.number)
        if epoch is not None and self._source.passes_on(epoch):
            self.end()
        max_steps = None if epoch is None else epoch.max_steps
        epoch = self.open or self._begin(explicit=False, max_steps=max_steps)
        epoch.restart()
        return epoch

    def report_dropped(self, epoch: OpenEpoch, samples: npt.NDArray[np.int64] | None) -> None:
        """Passes the samples of a consumed batch that a stage dropped on to the run; None for none."""
        if samples is not None and self._run is not None:
            self._run.report_dropped(epoch, samples)

    def end_if_settled(self, epoch: OpenEpoch, *, wait: bool = True) -> None:
        """Passes the epoch's end on to the run once its last batch was updated; it stays open until the next one."""
        if epoch.settled and self._run is not None and not epoch.ended:
            epoch.ended = True
            self._run.end(epoch, wait=wait)

    def end(self) -> None:
        """Ends the open epoch, if there is one."""
        if self.open is None or self.closed:  # a loop over epochs() may run on after close()
            return
        epoch, self.open = self.open, None
        self._source.advance(epoch)
        self._end(epoch, wait=True)

    def close(self) -> None:
        """Ends the open epoch for good."""
        epoch, closed, self.closed = self.open, self.closed, True
        if epoch is not None and not closed:
            self._source.advance(epoch)
            self._end(epoch, wait=False)

    def _epochs(self, max_steps: int | None) -> Iterator[int]:
        self._check_not_closed()
        epoch = self._begin_again()
        if epoch is None:
            self.end()
        else:
            epoch.max_steps = max_steps
        self._source.start_over()
        if epoch is None and self._source.next_epoch >= self._source.num_epochs:
            self._holder.log_finished(self._source.num_epochs)
        left = max_steps
        while epoch is not None or self._source.next_epoch < self._source.num_epochs:
            epoch = epoch or self._begin(explicit=True, max_steps=left)
            yield epoch.number
            if left is not None:
                left -= epoch.num_consumed
                if left == 0 and not epoch.finished:
                    break  # it stays open, so that a state saved now resumes inside it
            self.end()
            epoch = None
            if left == 0:
                break
        if self._run is not None:
            self._run.flush()

    def _begin(self, *, explicit: bool, max_steps: int | None = None) -> OpenEpoch:
        self._check_not_closed()
        following = self._source.open(max_steps)
        self.open = OpenEpoch(
            following.number,
            following.plan,
            following.plan_path,
            self._opening(following.plan.kept, following.start),
            explicit,
            max_steps,
            following.generation,
            following.base_seed,
            following.pass_number,
        )
        return self.open

    def _begin_again(self) -> OpenEpoch | None:
        """The open epoch from its start, if nothing of it was trained: a look at its batches costs nothing."""
        epoch = self.open
        if epoch is None or epoch.updated or self._run is None:
            return None
        epoch.explicit = True
        if epoch.num_consumed:
            epoch.restart()
        return epoch

    def _check_not_closed(self) -> None:
        if self.closed:
            raise self._holder.closed()

    def _check_is_next(self, epoch: int, run: TrainingSource) -> None:
        following = self.open.number + 1 if self.open is not None else run.next_epoch
        if epoch >= run.num_epochs:
            raise ConfigError(f"set_epoch({epoch}): the run's schedule is of {run.num_epochs} epochs, from 0")
        if epoch != following and not (self.open is None and run.may_begin_anywhere):
            raise self._holder.not_next(epoch, following)

    def _end(self, epoch: OpenEpoch, *, wait: bool) -> None:
        if self._run is None:
            return
        if not epoch.ended:
            epoch.ended = True
            self._run.end(epoch, wait=wait)
        if epoch.exhausted and epoch.awaited:
            batches = f"{len(epoch.awaited)} of {epoch.num_consumed} batches"
            self._holder.warn_never_updated(f"{batches} of epoch {epoch.number} were never")
