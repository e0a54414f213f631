"""The batches that a loader returns to its caller: each with its ticket, in the passes over the open epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from infobatch_client.epochs.holder import LOADER
from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.epochs.sequence import EpochSequence
from infobatch_client.tie.rows import TiedBatch, with_tie
from infobatch_client.tie.ticket import Ticket

__all__ = ["ReturnedBatches"]


class ReturnedBatches:
    """Returns batches, and counts each as consumed.

    Args:
        sequence: the loader's epochs.

    `gap_s` is the seconds from an epoch's last batch to the next
    one's first, once there were two epochs.
    """

    def __init__(self, sequence: EpochSequence) -> None:
        self.gap_s: float | None = None
        self._sequence = sequence
        self._returned: tuple[int, float] | None = None

    def of_pass(self, epoch: OpenEpoch, batches: Iterator[TiedBatch]) -> Iterator[tuple[Ticket, Any]]:
        """The batches of the pass that `EpochSequence.for_pass` has begun, with their tickets.

        Raises:
            ConfigError: while iterating: another pass has begun, or the loader was closed.
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
            payload, index, weight, keyed, counts = batch
            ticket = epoch.awaited.add(epoch.num_consumed, index, weight, epoch.opening.batch_size)
            epoch.consume(counts)
            # Tensors of their own: the ticket's arrays say whose scores are pushed, and nobody else may write them.
            tie = {"__index__": torch.tensor(index), "__weight__": torch.tensor(weight)} if keyed else {}
            self._measure_gap(epoch)
            yield ticket, with_tie(payload, keyed, tie)
        epoch.exhausted = True
        epoch.awaited.end()
        sequence.end_if_settled(epoch)

    def _measure_gap(self, epoch: OpenEpoch) -> None:
        now = time.monotonic()
        if self._returned is not None and self._returned[0] != epoch.number:
            self.gap_s = now - self._returned[1]
        self._returned = epoch.number, now
