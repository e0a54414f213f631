"""A run as one training process sees it: its plans, its scores, and the end of each epoch."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from infobatch_client.ranks.ranks import Ranks
from infobatch_client.run.connection import RunConnection
from infobatch_client.run.options import RunOptions
from infobatch_client.run.plan_source import PlanSource
from infobatch_client.run.resume_state import ResumeState
from infobatch_client.run.score_pusher import ScorePusher
from infobatch_client.tie.ticket import Ticket
from infobatch_client.tie.weighting import HostScores
from infobatch_stream.errors import ConfigError
from infobatch_stream.manifest import Manifest
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.row_counts import RowCounts
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.row_counts import counts_message

__all__ = ["TrainingRun"]


class TrainingRun:
    """Connects on construction: contacts the server, creates or joins the run, and attaches to it.

    All ranks of a job create theirs together. Not picklable; it belongs to the process that owns the loop.

    Args:
        options: the user's.
        manifest: of the shards.
        ranks: of the job; they have agreed on everything else.
        batch_size: rows per rank and step, for the order's default.
        state: from a checkpoint, or None for a new training.
        start_epoch: without a state, the first epoch.

    Attributes:
        joined: the attached run.
        pusher: this rank's; None if another replica pushes.
        plans: of the run's epochs.

    Raises:
        ServerUnreachableError, ServerBusyError: no answer within `connect_timeout_s`.
        RunConflictError: the run exists with another spec, or has trained already and no state was passed.
        RunBusyError: another job is training it.
        StateError: `state` belongs to another run, data set or order.
        RanksError: one of these on another rank.
    """

    _pid = -1
    _is_open = False

    def __init__(
        self,
        options: RunOptions,
        manifest: Manifest,
        *,
        ranks: Ranks,
        batch_size: int,
        state: ResumeState | None,
        start_epoch: int = 0,
    ) -> None:
        if state is not None:
            options = _options_for(options, state)
        self._rank = ranks.rank
        self._pid = os.getpid()
        self._flush_timeout_s = options.timeouts.flush_timeout_s
        self._connection = RunConnection(
            options, manifest, ranks=ranks, batch_size=batch_size, state=state, start_epoch=start_epoch
        )
        self.joined = self._connection.joined
        self.pusher: ScorePusher | None = None
        try:
            if ranks.pushes:
                self.pusher = ScorePusher(
                    self._connection.client,
                    run_id=self.joined.run_id,
                    generation=self.joined.generation,
                    heartbeat_interval_s=self.joined.heartbeat_interval_s,
                    columns={column.name: column.dtype for column in self.joined.spec.policy.pushed_columns},
                    find_end=self._connection.find_end,
                )
                self.pusher.start()
            self.plans = PlanSource(
                self._connection.client, self.joined, ranks=ranks, pusher=self.pusher, timeouts=options.timeouts
            )
            self._connection.enter(self)
            self._is_open = True
        except BaseException:
            try:
                if self.pusher is not None:
                    self.pusher.close(0.0)
            finally:
                self._connection.abandon()
            raise

    def warn_if_it_forgets(self) -> None:
        """Says once, where a state is saved, that the server keeps its runs in memory."""
        self._connection.warn_if_it_forgets()

    def check(self) -> None:
        """Raises the error that stopped the pusher, if one did, or says that the embedded server has ended."""
        if self.pusher is not None:
            self.pusher.check()
        if (end := self._connection.find_end()) is not None:
            raise end

    def push(self, ticket: Ticket, pushed: HostScores) -> None:
        """Queues scores (B,) and columns, if this process is the replica that pushes.

        Raises:
            ServerError: the pusher has stopped.
            ConfigError: other columns than the policy's, or a forked process.
        """
        self._check_process()
        if self.pusher is not None:
            self.pusher.check()
            self.pusher.put_scores(ticket.epoch, ticket.index, pushed.scores, pushed.ready, pushed.columns)

    def report_dropped(self, epoch: int, samples: npt.NDArray[np.int64]) -> None:
        """Queues samples (n,) that the pipeline dropped, if this process is the replica that pushes."""
        self._check_process()
        if self.pusher is not None:
            self.pusher.put_dropped(epoch, samples)

    def end_epoch(self, plan: EpochPlan, *, start: int, end: int, counts: RowCounts) -> None:
        """Queues the message that this rank has pushed all scores of an epoch's positions [start, end).

        Args:
            plan: the epoch's.
            start: the first position.
            end: behind the last position.
            counts: this rank's rows; the pusher adds the rejected scores.
        """
        if self.pusher is not None:
            self.pusher.put_message(
                pb.EndEpochRequest(
                    run_id=self.joined.run_id,
                    generation=self.joined.generation,
                    epoch=plan.epoch,
                    rank=self._rank,
                    plan_id=plan.plan_id,
                    start_position=start,
                    end_position=end,
                    counts=counts_message(counts),
                )
            )

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits up to `timeout_s` (`flush_timeout_s` by default) for the queue; whether all of it has arrived."""
        self._check_process()
        return self.pusher is None or self.pusher.flush(self._flush_timeout_s if timeout_s is None else timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Sends the rest of the queue, gives back this rank's part of the lease and closes the channel.

        Does not communicate with other ranks.
        """
        if os.getpid() != self._pid or not self._is_open:
            return  # a forked child owns none of this
        self._is_open = False
        try:
            if self.pusher is not None and self.pusher.close(self._flush_timeout_s if timeout_s is None else timeout_s):
                self._connection.detach()
        except BaseException:  # Ctrl-C while scores are sent: the next start waits for no lease all the same
            self._connection.detach()
            raise
        finally:
            self.plans.close()
            self._connection.close()

    def __del__(self) -> None:
        """An interrupt between the end of `__init__` and the assignment of its result leaves this the last one."""
        self.close()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ConfigError(
                f"the run is open in process {self._pid}, and {os.getpid()} is a fork of it, whose scores nobody would "
                "send: make a loader or dataset of its own there"
            )


def _options_for(options: RunOptions, state: ResumeState) -> RunOptions:
    """A generated run name gives way to the state's."""
    return replace(options, run=state.run, fresh=False) if options.fresh else options
