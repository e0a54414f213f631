"""The batches that a loader returns to its caller: each with its ticket, in the passes over the open epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from infobatch_client.epochs.holder import LOADER
from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.epochs.sequence import EpochSequence
from infobatch_client.tie.rows import TiedBatch, with_tie
from infobatch_client.tie.ticket import Ticket
from infobatch_stream.errors import WorkerError

__all__ = ["ReturnedBatches"]


class ReturnedBatches:
    """Returns batches, and counts each as consumed.

    Args:
        sequence: the loader's epochs.
        find_drops: (epoch, whether the pass is over) → what to warn of, or None; asked if a stage has dropped samples.

    `gap_s` is the seconds from an epoch's last batch to the next
    one's first, once there were two epochs.
    """

    def __init__(
        self, sequence: EpochSequence, find_drops: Callable[[OpenEpoch, bool], str | None] = lambda _epoch, _over: None
    ) -> None:
        self.gap_s: float | None = None
        self._sequence = sequence
        self._find_drops = find_drops
        self._returned: tuple[int, float] | None = None

    def of_pass(self, epoch: OpenEpoch, batches: Iterator[TiedBatch]) -> Iterator[tuple[Ticket, Any]]:
        """The batches of the pass that `EpochSequence.for_pass` has begun, with their tickets.

        Raises:
            ConfigError: while iterating: another pass has begun, or the loader was closed.
            WorkerError: while iterating: a batch is missing.
        """
        return self._return(epoch, epoch.awaited.pass_id, batches)

    def _return(self, epoch: OpenEpoch, pass_id: object, batches: Iterator[TiedBatch]) -> Iterator[tuple[Ticket, Any]]:
        sequence = self._sequence
        while True:
            if sequence.closed:
                raise LOADER.closed()
            if epoch.awaited.pass_id is not pass_id or sequence.open is not epoch:
                raise LOADER.pass_over()
            if epoch.stopped or (batch := next(batches, None)) is None:
                break
            payload, index, weight, keyed, counts, step, dropped = batch
            if step != epoch.num_consumed:
                raise _lost(epoch, f"batch {step} came in its place")
            ticket = epoch.awaited.add(epoch.num_consumed, index, weight, epoch.opening.batch_size)
            epoch.consume(counts)
            if counts.dropped:
                sequence.report_dropped(epoch, dropped)
                self._warn_of_drops(epoch, False)
            # Tensors of their own: the ticket's arrays say whose scores are pushed, and nobody else may write them.
            tie = {"__index__": torch.tensor(index), "__weight__": torch.tensor(weight)} if keyed else {}
            self._measure_gap(epoch)
            yield ticket, with_tie(payload, keyed, tie)
        if not epoch.stopped and not epoch.finished:
            raise _lost(epoch, "the pass ended before it")
        if epoch.counts.dropped:
            self._warn_of_drops(epoch, True)
        epoch.exhausted = True
        epoch.awaited.end()
        sequence.end_if_settled(epoch)

    def _warn_of_drops(self, epoch: OpenEpoch, over: bool) -> None:
        if (found := self._find_drops(epoch, over)) is not None:
            LOADER.warn(found)

    def _measure_gap(self, epoch: OpenEpoch) -> None:
        now = time.monotonic()
        if self._returned is not None and self._returned[0] != epoch.number:
            self.gap_s = now - self._returned[1]
        self._returned = epoch.number, now


def _lost(epoch: OpenEpoch, what: str) -> WorkerError:
    return WorkerError(
        f"batch {epoch.num_consumed} of {epoch.opening.num_steps} of this pass was lost on its way from a worker: "
        f"{what}. The worker's output may say why; with num_workers=0 the error is raised where it arises"
    )
