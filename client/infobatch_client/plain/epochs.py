"""The epochs of a dataset that a plain DataLoader reads: the part in the loop's process, which talks to the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infobatch_client.epochs.holder import DATASET
from infobatch_client.epochs.loop import EpochLoop
from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.epochs.training import TrainingEpochs
from infobatch_client.plain.batch_order import BatchOrder
from infobatch_client.plain.readers import EpochReaders
from infobatch_client.plain.row_stream import RowStream
from infobatch_client.ranks.ranks import Ranks
from infobatch_client.run.options import RunOptions
from infobatch_client.tie.checks import checked_index, checked_weights
from infobatch_client.tie.rows import failed_samples
from infobatch_client.tie.ticket import Ticket
from infobatch_client.tie.weighting import Losses, checked_losses, weighted_mean
from infobatch_client.workers.drop_watch import DropWatch
from infobatch_client.workers.pass_control import Pass, PassControl
from infobatch_stream.manifest import Manifest
from infobatch_stream.row_counts import RowCounts

__all__ = ["PlainEpochs"]


class PlainEpochs:
    """Opens epochs and takes updates. A batch counts as consumed once it is updated or skipped.

    Not picklable; lives in the process that owns the loop.

    Args:
        options: the run's.
        manifest: the shards'.
        batch_size: B, rows by rank and step.
        control: the memory that the dataset's workers read.
        ranks: of the job.
        loader_number: of a base seed, what tells this dataset's random augmentations from those of others.

    `loop` answers all that isn't particular to a plain loop.
    """

    def __init__(
        self,
        options: RunOptions,
        manifest: Manifest,
        batch_size: int,
        control: PassControl,
        ranks: Ranks,
        *,
        loader_number: Callable[[int], int],
    ) -> None:
        source = TrainingEpochs(options, manifest, ranks=ranks, batch_size=batch_size, remainder="fill")
        self.loop = EpochLoop(source, holder=DATASET, ranks=ranks, batch_size=batch_size)
        self._offsets = manifest.offsets
        self._batch_size = batch_size
        self._ranks = ranks
        self._readers = EpochReaders(control, ranks, options.seed, loader_number)
        self._remembers_drops = options.drops == "remember"
        self._watch = DropWatch(control, trains=True, remembers=self._remembers_drops)
        self._order: BatchOrder | None = None
        self._loaded: dict[str, Any] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Opens `epoch`, unless it is open and nothing of it was updated."""
        before = self.loop.open
        self.loop.sequence.set_epoch(epoch)
        self._readers.announce(self.loop.current())
        if before is not None and before is not self.loop.open and not before.updated and before.opening.num_steps:
            DATASET.warn_never_updated(f"no batch of epoch {before.number} was")

    def begin_pass(self) -> Pass:
        """The pass that an iterator in this process reads: of the open epoch, or of the next one."""
        if (epoch := self.loop.open) is not None:
            epoch.exhausted = self._readers.exhausted
        return self._readers.announce(self.loop.sequence.for_pass())

    def begin_rows(self, rows: RowStream) -> None:
        """An iterator in this process has begun; an earlier one is over."""
        self._readers.begin(rows)

    def update(
        self,
        losses: Losses,
        index: torch.Tensor,
        weight: torch.Tensor,
        scores: torch.Tensor | None = None,
        columns: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The weighted mean of a batch's losses; their values, or `scores`, are queued for the server."""
        order, samples = self._batch(index)
        rows = len(samples)
        checked = checked_losses(losses, rows)
        pushed = checked if scores is None else checked_losses(scores, rows, "scores")
        weights = checked_weights(weight, samples, order.epoch.plan)
        value = weighted_mean(checked, weights)
        self._push(order, samples, index, weights, pushed, columns)
        return value

    def push(
        self, scores: torch.Tensor, index: torch.Tensor, columns: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Queues the scores of a batch whose losses the caller reduces."""
        order, samples = self._batch(index)
        checked = checked_losses(scores, len(samples), "scores")
        self._push(order, samples, index, np.zeros(len(samples), np.float32), checked, columns)

    def skip(self) -> None:
        """Counts a batch that is deliberately not trained."""
        order = self._order_of(self.loop.for_scores())
        order.check_not_over()
        self._settle(order, order.next_rows)

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes a resume state, before the first epoch; the one that is in force already changes nothing."""
        epoch = self.loop.open
        untouched = epoch is None or not epoch.updated
        if untouched and (state == self._loaded or (epoch is not None and state == self.loop.state())):
            return
        self.loop.load(state)
        self._loaded = dict(state)

    def close(self, timeout_s: float | None = None) -> None:
        """Ends the open epoch and its iterator, sends the pending scores and gives the lease back."""
        self._readers.retire()
        self.loop.close(timeout_s)

    def _order_of(self, epoch: OpenEpoch) -> BatchOrder:
        if self._order is None or self._order.epoch is not epoch:
            self._order = BatchOrder(epoch, self._offsets, self._ranks.rank)
        return self._order

    def _batch(self, index: torch.Tensor) -> tuple[BatchOrder, npt.NDArray[np.int64]]:
        """The order of the open epoch's batches, and the samples of the one that is next or was updated last."""
        epoch = self.loop.for_scores()
        order = self._order_of(epoch)
        samples = checked_index(index, epoch.plan, self._batch_size)
        if not order.is_newest(samples, index):
            self._move_to(order, order.settle_padding(samples))
            order.check_not_over()
            order.check_next(samples, loaded_state=self._readers.loaded_state)
        self._readers.check_mark(index)
        return order, samples

    def _push(
        self,
        order: BatchOrder,
        samples: npt.NDArray[np.int64],
        index: torch.Tensor,
        weights: npt.NDArray[np.float32],
        scores: torch.Tensor,
        columns: Mapping[str, torch.Tensor] | None,
    ) -> None:
        """Queues scores; a batch that is updated again isn't counted again."""
        self.loop.push(Ticket(order.epoch.number, order.epoch.num_consumed, samples, weights), scores, columns)
        is_newest = order.is_newest(samples, index)
        order.note_update(samples, step=order.epoch.num_consumed)
        if not is_newest:
            order.note_newest(samples, index)
            if self._remembers_drops:
                self.loop.sequence.report_dropped(order.epoch, order.dropped_of_next(samples))
            failed = len(failed_samples(samples))
            self._settle(order, int(np.count_nonzero(samples >= 0)), failed)

    def _move_to(self, order: BatchOrder, step: int) -> None:
        """Counts batches without a real row as what they were: one that was updated several times, or several."""
        epoch, size = order.epoch, self._batch_size
        while epoch.num_consumed < step:
            epoch.consume(RowCounts(0, size, order.next_rows, 0))
        while epoch.num_consumed > step:
            epoch.num_consumed -= 1
            epoch.counts += RowCounts(0, -size, -order.next_rows, 0)

    def _settle(self, order: BatchOrder, real: int, failed: int = 0) -> None:
        epoch = order.epoch
        epoch.consume(RowCounts(real, self._batch_size - real, max(0, order.next_rows - real - failed), failed))
        if epoch.counts.dropped:
            found = self._watch.find(epoch.opening.world_size, over=epoch.finished, plan=epoch.plan)
            if found is not None:
                DATASET.warn(found)
        epoch.updated = True
        epoch.exhausted = epoch.finished  # workers read ahead: an update is all that this process sees of a batch
        self._readers.mark_updated()
        self.loop.sequence.end_if_settled(epoch, wait=False)
