"""The epochs of a dataset that a plain DataLoader reads: the part that talks to the server, in the loop's process."""

from __future__ import annotations

import os
import sys
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.epochs.sequence import EpochSequence
from infobatch_client.epochs.source import EpochSource
from infobatch_client.epochs.training import TrainingEpochs
from infobatch_client.plain.row_stream import RowStream
from infobatch_client.ranks.ranks import Ranks
from infobatch_client.run.options import RunOptions
from infobatch_client.tie.checks import checked_index, checked_weights
from infobatch_client.tie.ticket import Ticket
from infobatch_client.tie.weighting import Losses, checked_losses, host_scores, weighted_mean
from infobatch_client.workers.pass_control import Pass, PassControl
from infobatch_stream.errors import ConfigError, LossError, StateError
from infobatch_stream.manifest import Manifest
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.plan.opening import Opening
from infobatch_stream.plan.order import PlanOrder
from infobatch_stream.row_counts import RowCounts

__all__ = ["PlainEpochs"]

_FIRST_STEPS = 64  # as many as workers may have begun when single rows come from several of them


class PlainEpochs:
    """Opens epochs, tells the workers, takes updates. A batch counts as consumed once it is updated or skipped.

    Not picklable; lives in the process that owns the loop, and does nothing in a fork of it.

    Args:
        options: the run's.
        manifest: the shards'.
        batch_size: B, rows by rank and step.
        control: what the dataset's workers read.
        ranks: of the job.
    """

    def __init__(
        self, options: RunOptions, manifest: Manifest, batch_size: int, control: PassControl, ranks: Ranks
    ) -> None:
        self.pid = os.getpid()
        self._ranks = ranks
        self._source: EpochSource = TrainingEpochs(
            options, manifest, ranks=ranks, batch_size=batch_size, remainder="fill"
        )
        self._offsets = manifest.offsets
        self._batch_size = batch_size
        self._control = control
        self._epochs = EpochSequence(self._source, self._opening)
        self._written: OpenEpoch | None = None
        self._loaded: dict[str, Any] | None = None
        self._rows: RowStream | None = None
        self._order: tuple[OpenEpoch, PlanOrder] | None = None
        self._last: tuple[OpenEpoch, npt.NDArray[np.int64]] | None = None
        weakref.finalize(self, _release, self._source, self.pid)  # also at the interpreter's exit

    @property
    def epoch(self) -> int:
        """The open epoch, or the one that comes next."""
        return self._open.number if self._open is not None else self._source.next_epoch

    @property
    def plan(self) -> EpochPlan:
        """The open epoch's."""
        return self._opened().plan

    @property
    def steps(self) -> int:
        """Batches of the open epoch; before it is open, what is known of it."""
        if self._open is not None:
            return self._open.opening.num_steps
        positions, consumed = self._source.ahead
        return self._opening(num_positions=positions, start=consumed).num_steps

    @property
    def progress(self) -> float:
        """epoch + consumed / positions of this epoch."""
        return self._open.progress if self._open is not None else self._source.progress

    def set_epoch(self, epoch: int) -> None:
        """Opens `epoch`, unless it is open and nothing of it was updated."""
        before = self._open
        if before is not None and before.updated and epoch == before.number:
            raise _second_pass(before.number)
        self._epochs.set_epoch(epoch)
        self._tell_workers()
        if before is not None and before is not self._open and not before.updated and before.opening.num_steps:
            warnings.warn(
                f"no batch of epoch {before.number} was updated: its samples have no new scores; call "
                "dataset.update(losses, index, weight) for every batch, or dataset.skip()",
                stacklevel=3,
            )

    def begin_pass(self) -> Pass:
        """The pass that an iterator in this process reads: of the open epoch, or of the next one."""
        opened = self._open
        if opened is not None:
            if opened.updated and opened.explicit:
                raise _second_pass(opened.number)
            opened.exhausted = self._rows is not None and self._rows.ended
        if opened is None or (not opened.explicit and (opened.updated or opened.exhausted)):
            self._epochs.for_pass()
            self._tell_workers()
        return self._control.read()

    def reads(self, rows: RowStream) -> None:
        """An iterator in this process has begun; one before it is over."""
        self._retire()
        self._rows = rows

    def update(
        self, losses: Losses, index: torch.Tensor, weight: torch.Tensor, scores: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The weighted mean of a batch's losses; their values, or `scores`, are queued for the server."""
        opened, samples = self._batch(index)
        rows = len(samples)
        checked = checked_losses(losses, rows)
        pushed = checked if scores is None else checked_losses(scores, rows, "scores")
        weights = checked_weights(weight, samples, opened.plan)
        value = weighted_mean(checked, weights)
        self._source.push(Ticket(opened.number, opened.given, samples, weights), host_scores(pushed))
        self._settle_once(opened, samples)
        return value

    def push(self, scores: torch.Tensor, index: torch.Tensor) -> None:
        """Queues the scores of a batch whose losses the caller reduces."""
        opened, samples = self._batch(index)
        checked = checked_losses(scores, len(samples), "scores")
        ticket = Ticket(opened.number, opened.given, samples, np.zeros(len(samples), np.float32))
        self._source.push(ticket, host_scores(checked))
        self._settle_once(opened, samples)

    def skip(self) -> None:
        """Counts a batch that is deliberately not trained."""
        opened = self._due()
        first, end = opened.opening.rows(opened.given, self._ranks.rank)
        self._settle(opened, end - first)

    def state(self) -> dict[str, Any]:
        """The resume state."""
        return self._source.state(self._open)

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes a resume state, before the first epoch; the one that is in force already changes nothing."""
        untouched = self._open is None or not self._open.updated
        if untouched and (state == self._loaded or (self._open is not None and state == self.state())):
            return
        if self._open is not None:
            raise ConfigError("load_state_dict() comes before the first epoch: make a new dataset to load a state")
        self._source.load(state)
        self._loaded = dict(state)

    def metrics(self) -> dict[str, float]:
        """Counts and lags."""
        found = self._source.metrics()
        return found if self._open is None else found | self._open.metrics()

    def flush(self, timeout_s: float | None) -> bool:
        """Waits for scores that are on their way; whether all have arrived."""
        return self._source.flush(timeout_s)

    def close(self, timeout_s: float | None) -> None:
        """Ends the open epoch, sends what is left and gives the lease back."""
        self._retire()
        try:
            self._epochs.close()
        finally:
            self._source.close(timeout_s)

    @property
    def _open(self) -> OpenEpoch | None:
        return self._epochs.open

    def _opening(self, *, num_positions: int, start: int) -> Opening:
        return Opening(
            num_positions=num_positions, start=start, batch_size=self._batch_size, world_size=self._ranks.world_size
        )

    def _tell_workers(self) -> None:
        opened = self._opened()
        if opened is self._written:
            return
        self._retire()
        self._control.write(
            Pass(
                epoch=opened.number,
                plan_path=opened.plan_path,
                start=opened.opening.start,
                batch_size=self._batch_size,
                rank=self._ranks.rank,
                world_size=self._ranks.world_size,
            )
        )
        self._written = opened

    def _retire(self) -> None:
        if self._rows is not None:
            self._rows.over = True
            self._rows = None

    def _opened(self) -> OpenEpoch:
        if self._open is None:
            raise LossError("no epoch is open: call dataset.set_epoch(epoch) and iterate over the DataLoader")
        return self._open

    def _trained(self) -> OpenEpoch:
        opened = self._opened()
        if self._epochs.closed:
            raise ConfigError("this dataset is closed: it takes no scores any more")
        return opened

    def _due(self) -> OpenEpoch:
        opened = self._trained()
        if opened.given >= opened.opening.num_steps:
            raise LossError(
                f"all {opened.given} batches of epoch {opened.number} are updated or skipped already: call update(), "
                "push() or skip() once for every batch"
            )
        return opened

    def _batch(self, index: torch.Tensor) -> tuple[OpenEpoch, npt.NDArray[np.int64]]:
        """The open epoch and the samples of a batch, checked."""
        opened = self._trained()
        samples = checked_index(index, opened.plan, self._batch_size)
        if not self._again(opened, samples):
            self._due()
            self._check_next(opened, samples[samples >= 0])
        return opened, samples

    def _check_next(self, opened: OpenEpoch, real: npt.NDArray[np.int64]) -> None:
        """Raises where samples are not of the batch that comes next: a stage may drop some, and add none."""
        order = self._order_of(opened)
        if np.isin(real, order.samples(*opened.opening.rows(opened.given, self._ranks.rank))).all():
            return
        self._check_nothing_thrown_away(opened)
        self._check_own(opened, real)
        raise LossError(
            f"these are not the samples of batch {opened.given} of epoch {opened.number}, which comes next: update "
            "every batch, in the order in which the DataLoader gave it, with the index that came with it; "
            "dataset.skip() is for one that isn't trained. An iterator of an epoch that is over has none of this one's"
        )

    def _order_of(self, opened: OpenEpoch) -> PlanOrder:
        if self._order is None or self._order[0] is not opened:
            self._order = opened, PlanOrder(opened.plan, self._offsets)
        return self._order[1]

    def _again(self, opened: OpenEpoch, samples: npt.NDArray[np.int64]) -> bool:
        """Whether this is the batch updated last: an epoch has each sample in one batch only."""
        last = self._last
        real = bool((samples >= 0).any())
        return real and last is not None and last[0] is opened and np.array_equal(samples, last[1])

    def _check_nothing_thrown_away(self, opened: OpenEpoch) -> None:
        """torchdata reads and drops batches where a loader's snapshot is older than its state."""
        if not opened.given and self._control.any_loaded:
            raise StateError(
                "the loader has thrown away the first batches after its state was loaded: save it with "
                "snapshot_every_n_steps=1, or load the dataset's state alone into a new loader"
            )

    def _settle_once(self, opened: OpenEpoch, samples: npt.NDArray[np.int64]) -> None:
        if not self._again(opened, samples):
            self._last = opened, samples
            self._settle(opened, int(np.count_nonzero(samples >= 0)))

    def _check_own(self, opened: OpenEpoch, real: npt.NDArray[np.int64]) -> None:
        """Accelerate's `prepare` reads on the first rank alone, and deals its batches out to all."""
        if opened.given or self._ranks.world_size == 1:
            return
        order, steps = self._order_of(opened), range(min(_FIRST_STEPS, opened.opening.num_steps))
        own = [order.samples(*opened.opening.rows(step, self._ranks.rank)) for step in steps]
        if not np.isin(real, np.concatenate(own)).all():
            raise LossError(
                f"rank {self._ranks.rank} was given samples of epoch {opened.number} that another rank reads: "
                "something deals batches out a second time, as Accelerate's prepare() does; leave the DataLoader out "
                "of it: the dataset knows its rank"
            )

    def _settle(self, opened: OpenEpoch, real: int) -> None:
        first, end = opened.opening.rows(opened.given, self._ranks.rank)
        counts = RowCounts(real, self._batch_size - real, max(0, end - first - real), 0)
        opened.counts += counts
        opened.given += 1
        opened.updated += 1
        self._control.mark_updated()
        if opened.finished and not opened.ended:
            opened.ended = True
            self._source.end(opened, wait=False)


def _second_pass(epoch: int) -> ConfigError:
    return ConfigError(
        f"a second pass over epoch {epoch} after updates: a sample is trained once in an epoch; "
        f"call dataset.set_epoch({epoch + 1})"
    )


def _release(source: EpochSource, pid: int) -> None:
    """Flushes for at most 5 s where an exception ends the program. A forked child releases nothing."""
    if os.getpid() == pid:
        source.close(5.0 if getattr(sys, "last_value", None) is not None else None)
