"""The one loop under InfoBatchLoader and a dataset in a plain DataLoader: scores, progress, state, end."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from infobatch_client.epochs.holder import Holder
from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.epochs.sequence import EpochSequence
from infobatch_client.epochs.source import EpochSource, TrainingSource
from infobatch_client.ranks.ranks import Ranks
from infobatch_client.tie.columns import checked_columns
from infobatch_client.tie.ticket import Ticket
from infobatch_client.tie.weighting import host_scores
from infobatch_stream.errors import LossError
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.plan.opening import Opening

__all__ = ["EpochLoop"]


class EpochLoop:
    """The epochs of one loop with their scores, progress, state and end. For the loop's thread and process.

    Args:
        source: the epochs of a run, or of a validation set.
        holder: the object that the user holds.
        ranks: of the job.
        batch_size: B, rows by rank and step.
        drop_remainder: leaves out the last samples that don't fill a step.
        release: releases the loop's other resources, at `close()` and at the program's exit.

    `sequence` opens and ends the epochs.
    """

    def __init__(
        self,
        source: EpochSource,
        *,
        holder: Holder,
        ranks: Ranks,
        batch_size: int,
        drop_remainder: bool = False,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._source = source
        self._run = source if isinstance(source, TrainingSource) else None
        self._holder = holder
        self._opening = partial(_opening, ranks, batch_size, drop_remainder)
        self._release = release
        self.sequence = EpochSequence(source, holder, self._opening)
        # An iterator may outlive its loader, and holds the sequence. Also called at the interpreter's exit.
        weakref.finalize(self.sequence, _release_at_exit, source, release, os.getpid())

    @property
    def trains(self) -> bool:
        """Whether the epochs are a run's."""
        return self._run is not None

    @property
    def num_epochs(self) -> int:
        """The epochs that the run's schedule is for; 1 for validation."""
        return self._source.num_epochs

    @property
    def open(self) -> OpenEpoch | None:
        """The open epoch."""
        return self.sequence.open

    @property
    def epoch(self) -> int:
        """The number of the open epoch, or of the next one."""
        return self.open.number if self.open is not None else self._source.next_epoch

    @property
    def plan(self) -> EpochPlan:
        """The open epoch's plan, for the user.

        Raises:
            LossError: no epoch is open.
        """
        return self.current().plan_for_callers

    @property
    def num_batches(self) -> int:
        """Batches of the open epoch; before it is open, those after a loaded state, or an unpruned one's."""
        return self.open.num_batches if self.open is not None else self._opening(*self._source.ahead).num_steps

    @property
    def progress(self) -> float:
        """epoch + consumed / positions of this epoch."""
        return self.open.progress if self.open is not None else self._source.progress

    def metrics(self) -> dict[str, float]:
        """Counts and lags of the scores, and the open epoch's numbers."""
        of_scores = self._run.metrics() if self._run is not None else {}
        return of_scores if self.open is None else of_scores | self.open.metrics()

    def current(self) -> OpenEpoch:
        """The open epoch.

        Raises:
            LossError: no epoch is open.
        """
        if self.open is None:
            raise self._holder.no_epoch()
        return self.open

    def for_scores(self) -> OpenEpoch:
        """The open epoch, to take scores of it.

        Raises:
            LossError: no epoch is open.
            ConfigError: a validation set, or closed.
        """
        self._training("takes no scores: it has no run to push them to")
        if self.sequence.closed:
            raise self._holder.takes_no_scores()
        return self.current()

    def shown(self, call: str) -> Ticket:
        """The batch returned last, for `call`, a method's name.

        Raises:
            LossError: there is none yet, or the pass is over.
        """
        if self.open is None:
            raise LossError(f"{call}() before the first batch of an epoch")
        return self.open.awaited.shown(call, trains=self.trains)

    def push(self, ticket: Ticket, scores: torch.Tensor, columns: Mapping[str, torch.Tensor] | None) -> None:
        """Queues the scores (n,) of a ticket's rows, and the policy's columns (n,) beside them; `for_scores` before.

        Raises:
            LossError: `columns` aren't those that the policy declares.
            ServerError: the pusher has stopped.
        """
        run = self._training("takes no scores: it has no run to push them to")
        checked = checked_columns(columns, run.columns, len(scores)) if columns or run.columns else None
        run.push(ticket, host_scores(scores, checked))

    def settle(self, ticket: Ticket, rows: slice | None = None) -> None:
        """Counts a batch of the open epoch, or some of its rows, as updated or skipped."""
        epoch = self.current()
        epoch.updated = True
        epoch.awaited.settle(ticket, rows)
        self.sequence.end_if_settled(epoch)

    def state(self) -> dict[str, Any]:
        """The resume state."""
        return self._training("has no state: it begins anew every time").state(self.open)

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes a resume state.

        Raises:
            StateError: invalid, or of another run or data set.
            ConfigError: a validation set, or an epoch has been opened already.
        """
        run = self._training("has no state: it begins anew every time")
        if self.open is not None or run.has_begun:
            raise self._holder.late_state()
        run.load(state)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits for the scores that are still to be sent; whether all of them have arrived."""
        return self._run is None or self._run.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Ends the open epoch, sends the pending scores and releases the run. Idempotent."""
        try:
            self.sequence.close()
        finally:
            self._release()
            self._source.close(timeout_s)

    def _training(self, refusal: str) -> TrainingSource:
        if self._run is None:
            raise self._holder.without_run(refusal)
        return self._run


def _opening(ranks: Ranks, batch_size: int, drop_remainder: bool, num_positions: int, start: int) -> Opening:
    return Opening(
        num_positions=num_positions,
        start=start,
        batch_size=batch_size,
        world_size=ranks.world_size,
        drop_remainder=drop_remainder,
    )


def _release_at_exit(source: EpochSource, release: Callable[[], None], pid: int) -> None:
    """Flushes for at most 5 s if an exception ends the program. A forked child releases nothing."""
    if os.getpid() != pid:
        return
    release()
    source.close(5.0 if getattr(sys, "last_value", None) is not None else None)
