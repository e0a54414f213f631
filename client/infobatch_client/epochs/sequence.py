"""Which epoch of a loop is open: what opens the next one, what begins it again, and what ends it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

import torch

from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.epochs.source import EpochSource
from infobatch_client.tie.rows import TiedBatch, with_tie
from infobatch_client.tie.ticket import Ticket
from infobatch_stream.errors import ConfigError, LossError
from infobatch_stream.plan.opening import Opening
from infobatch_stream.ratios import whole_number

__all__ = ["EpochSequence"]


class EpochSequence:
    """The epochs of one loop, one open at a time. For the loop's thread.

    Args:
        source: where epochs come from, and what takes their ends.
        opening: (num_positions=, start=) of an epoch → its steps.

    `open` is the open epoch, `newest` the ticket of the batch returned last, and `gap_s` the seconds from an epoch's
    last batch to the next one's first, once there were two epochs.
    """

    def __init__(self, source: EpochSource, opening: Callable[..., Opening]) -> None:
        self.open: OpenEpoch | None = None
        self.closed = False
        self.newest: Ticket | None = None
        self.gap_s: float | None = None
        self._source = source
        self._opening = opening
        self._returned: tuple[int, float] | None = None

    def epochs(self, max_steps: SupportsIndex | None) -> Iterator[int]:
        """As `InfoBatchLoader.epochs`."""
        return self._epochs(None if max_steps is None else whole_number(max_steps, "max_steps", 1))

    def set_epoch(self, number: SupportsIndex) -> None:
        """As `InfoBatchLoader.set_epoch`."""
        epoch = whole_number(number, "epoch")
        self._check_not_closed()
        opened = self.open
        if self._source.trains:
            if opened is not None and opened.number == epoch and self._begin_again():
                return
            self._check_is_next(epoch)
        self.end()
        before = self._source.next_epoch
        self._source.begin_at(epoch)
        try:
            self._begin(explicit=True)
        except BaseException:
            if self._source.trains:
                self._source.begin_at(before)
            raise

    def for_pass(self) -> OpenEpoch:
        """The epoch that a new pass goes over, from where it was opened; the next one where this one is over.

        Raises:
            ConfigError: batches of an epoch that was opened explicitly have been updated already.
        """
        self._check_not_closed()
        opened = self.open
        if opened is not None and opened.updated and opened.explicit:
            raise ConfigError(
                f"a second pass over epoch {opened.number} after updates: a sample is trained once in an epoch; take "
                f"the next one from loader.epochs(), or call loader.set_epoch({opened.number + 1})"
            )
        if opened is not None and not opened.explicit and (opened.updated or opened.exhausted):
            self.end()
        opened = self.open or self._begin(explicit=False)
        opened.restart()
        return opened

    def give(self, opened: OpenEpoch, batches: Iterator[TiedBatch]) -> Iterator[tuple[Ticket, Any]]:
        """The batches of the pass that `for_pass` has begun, with their tickets."""
        return self._give(opened, opened.passes, batches)

    def opened(self) -> OpenEpoch:
        """The open epoch.

        Raises:
            LossError: none is.
        """
        if self.open is None:
            raise LossError("no epoch is open: iterate over loader.epochs() and, inside, over the loader")
        return self.open

    def trained(self) -> OpenEpoch:
        """The open epoch, for losses.

        Raises:
            LossError: none is open.
            ConfigError: losses have nowhere to go to.
        """
        if not self._source.trains:
            raise ConfigError("a validation loader (policy=None) takes no scores: it has no run to push them to")
        if self.closed:
            raise ConfigError("this loader is closed: it takes no scores any more")
        return self.opened()

    def due(self, batch: Ticket | None, rows: slice | None) -> tuple[OpenEpoch, Ticket, Ticket]:
        """The epoch, the batch that losses are for, and the tie of the rows that they are of."""
        opened = self.trained()
        ticket = opened.due(batch)
        return opened, ticket, ticket.part(rows)

    def settle(self, opened: OpenEpoch, ticket: Ticket, rows: slice | None = None) -> None:
        """Counts a batch, or some of its rows, as updated or deliberately not trained."""
        opened.settle(ticket, rows)
        if opened.exhausted:
            self._end_if_done(opened)

    def end(self) -> None:
        """Ends the open epoch, if there is one: the next one is next."""
        if self.open is None or self.closed:  # a loop over epochs() may go on after close()
            return
        opened, self.open = self.open, None
        self._source.advance(opened)
        self._say_end(opened, wait=True)

    def close(self) -> None:
        """Ends the open epoch for good; it stays to be asked how far it came."""
        opened, closed, self.closed = self.open, self.closed, True
        if opened is not None and not closed:
            self._source.advance(opened)
            self._say_end(opened, wait=False)

    def _epochs(self, max_steps: int | None) -> Iterator[int]:
        self._check_not_closed()
        opened = self._begin_again()
        if opened is None:
            self.end()
        else:
            opened.max_steps = max_steps
        self._source.start_over()
        left = max_steps
        while opened is not None or self._source.next_epoch < self._source.num_epochs:
            opened = opened or self._begin(explicit=True, max_steps=left)
            yield opened.number
            if left is not None:
                left -= opened.given
                if left == 0 and not opened.finished:
                    break  # it stays open, so that a state saved now goes on inside it
            self.end()
            opened = None
            if left == 0:
                break
        self._source.flush()

    def _give(self, opened: OpenEpoch, number: int, batches: Iterator[TiedBatch]) -> Iterator[tuple[Ticket, Any]]:
        while True:
            if opened.passes != number or self.open is not opened or self.closed:
                raise ConfigError("this iterator is of a pass that is over: a newer one has begun")
            if opened.stopped or (batch := next(batches, None)) is None:
                break
            payload, index, weight, keyed, counts = batch
            self.newest = ticket = opened.give(index, weight, counts)
            tie = {"__index__": torch.from_numpy(index), "__weight__": torch.from_numpy(weight)}
            self._measure_gap(opened)
            yield ticket, with_tie(payload, keyed, tie)
        opened.exhausted = True
        self._end_if_done(opened)

    def _measure_gap(self, opened: OpenEpoch) -> None:
        now = time.monotonic()
        if self._returned is not None and self._returned[0] != opened.number:
            self.gap_s = now - self._returned[1]
        self._returned = opened.number, now

    def _begin(self, *, explicit: bool, max_steps: int | None = None) -> OpenEpoch:
        self._check_not_closed()
        number, plan, path, start = self._source.open(max_steps)
        self.open = OpenEpoch(
            number, plan, path, self._opening(num_positions=plan.kept, start=start), explicit, max_steps
        )
        return self.open

    def _begin_again(self) -> OpenEpoch | None:
        """The open epoch as it was opened, if nothing of it was trained: a look at its batches burns nothing."""
        opened = self.open
        if opened is None or opened.updated or not self._source.trains:
            return None
        opened.explicit = True
        if opened.given:
            opened.restart()
        return opened

    def _check_not_closed(self) -> None:
        if self.closed:
            raise ConfigError("this loader is closed: make a new one")

    def _check_is_next(self, epoch: int) -> None:
        source = self._source
        after = self.open.number + 1 if self.open is not None else source.next_epoch
        if epoch >= source.num_epochs:
            raise ConfigError(f"set_epoch({epoch}): the run's schedule is of {source.num_epochs} epochs, from 0")
        if epoch != after and not (self.open is None and source.may_begin_anywhere):
            raise ConfigError(
                f"set_epoch({epoch}): epoch {after} is next; a run's epochs are trained one after the other. To go "
                "back, load a state of then into a new loader"
            )

    def _say_end(self, opened: OpenEpoch, *, wait: bool) -> None:
        if not opened.ended:
            opened.ended = True
            self._source.end(opened, wait=wait)
        if opened.exhausted and opened.awaiting and self._source.trains:
            warnings.warn(
                f"{len(opened.awaiting)} of {opened.given} batches of epoch {opened.number} were never updated: "
                "their samples have no new scores; call loader.update(losses) for every batch, or loader.skip()",
                stacklevel=4,
            )

    def _end_if_done(self, opened: OpenEpoch) -> None:
        if not opened.awaiting and not opened.ended:
            opened.ended = True
            self._source.end(opened)
