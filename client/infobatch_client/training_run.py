"""A run as one training process sees it: created or joined, attached, its plans, its scores, its end."""

from __future__ import annotations

import logging
import os
import time
import warnings
from dataclasses import replace

import numpy as np

from infobatch_client.embedded import EmbeddedServer
from infobatch_client.joining import Joined, join_run
from infobatch_client.plan_source import PlanFiles, fetch_plan
from infobatch_client.resume_state import ResumeState
from infobatch_client.run_options import RunOptions
from infobatch_client.score_client import ScoreClient
from infobatch_client.score_pusher import ScorePusher
from infobatch_stream import errors
from infobatch_stream.manifest import Manifest
from infobatch_stream.plan import EpochPlan, full_plan_id, unpruned_plan
from infobatch_stream.policies import Policy
from infobatch_stream.policies.pruned_class import ODD_SHARE_ADVICE
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["TrainingRun"]

_DETACH_TIMEOUT_S = 2.0
_log = logging.getLogger(__name__)


class TrainingRun:
    """Connects on construction: contacts the server, creates or joins the run, and attaches to it.

    Not picklable; lives in the process that owns the loop.

    Args:
        options: what the user asked for.
        manifest: the shards'.
        global_batch: batch_size × world_size, for the order's default.
        state: where a checkpoint left off, or None for a new training.
        start_epoch: without a state, the epoch to begin with.

    Raises:
        ServerUnreachableError: no server within `connect_timeout_s`.
        RunConflictError: the run exists with another spec, or has trained already and no state was given.
        RunBusyError: another job is training it.
        StateError: `state` belongs to another run, data set or order.
    """

    def __init__(
        self,
        options: RunOptions,
        manifest: Manifest,
        *,
        global_batch: int,
        state: ResumeState | None,
        start_epoch: int = 0,
    ) -> None:
        if state is not None:
            options = _options_for(options, state)
        self._timeouts = options.timeouts
        self._pid = os.getpid()
        self._embedded = EmbeddedServer.start(options.state_dir) if options.url is None else None
        address = self._embedded.address if self._embedded else str(options.url)
        self._client = ScoreClient(address, call_timeout_s=self._timeouts.call_timeout_s)
        try:
            self.joined = self._join(options, manifest, global_batch, state, start_epoch)
        except BaseException:
            self._let_go()
            raise
        self.run_id, self.spec, self.generation = self.joined.run_id, self.joined.spec, self.joined.generation
        self._plans = PlanFiles()
        self.pusher = ScorePusher(
            self._client,
            run_id=self.run_id,
            generation=self.generation,
            heartbeat_interval_s=self.joined.heartbeat_interval_s,
        )

    def plan(self, epoch: int, plan_id: str = "") -> tuple[EpochPlan, str]:
        """An epoch's plan and its file; unpruned where the server can't give one in `plan_timeout_s`.

        Args:
            epoch: the epoch.
            plan_id: the plan of a resumed epoch, which nothing can stand in for; "" for a new one.
        """
        if plan_id == full_plan_id(self.run_id, epoch):
            plan = self._unpruned(epoch)
        else:
            try:
                plan = self._fetch(epoch, plan_id)
            except errors.ServerUnreachableError as error:
                if plan_id:
                    raise
                _log.warning("epoch %d is trained unpruned: its plan could not be had (%s)", epoch, error)
                plan = self._unpruned(epoch)
                self.pusher.put_call(
                    "MarkUnpruned",
                    pb.MarkUnprunedRequest(run_id=self.run_id, generation=self.generation, epoch=epoch),
                )
        _warn_of_oddities(plan, self.spec.policy)
        path = self._plans.store(plan)
        self._plans.keep_newest()
        return plan, path

    def end_epoch(self, plan: EpochPlan, *, start: int, end: int, counts: pb.RowCounts) -> None:
        """Queues the word that this rank has pushed all scores of an epoch's positions [start, end)."""
        self.pusher.put_call(
            "EndEpoch",
            pb.EndEpochRequest(
                run_id=self.run_id,
                generation=self.generation,
                epoch=plan.epoch,
                rank=0,
                plan_id=plan.plan_id,
                start_position=start,
                end_position=end,
                counts=counts,
            ),
        )

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits for what is queued, at most `timeout_s` (`flush_timeout_s` by default); whether it has arrived."""
        return self.pusher.flush(self._timeouts.flush_timeout_s if timeout_s is None else timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Sends what is left, gives the lease back and closes the channel."""
        if os.getpid() != self._pid:
            return  # a forked child has no part in this
        try:
            arrived = self.pusher.close(self._timeouts.flush_timeout_s if timeout_s is None else timeout_s)
            if arrived:
                self._detach()
        finally:
            self.joined.leave()
            self._plans.close()
            self._let_go()

    def _detach(self) -> None:
        request = pb.DetachRunRequest(run_id=self.run_id, generation=self.generation)
        try:
            self._client.call("DetachRun", request, timeout_s=_DETACH_TIMEOUT_S)
        except errors.InfoBatchError as error:
            _log.warning("could not give the run's lease back, it runs out by itself: %s", error)

    def _let_go(self) -> None:
        self._client.close()
        if self._embedded:
            self._embedded.release()

    def _join(
        self,
        options: RunOptions,
        manifest: Manifest,
        global_batch: int,
        state: ResumeState | None,
        start_epoch: int,
    ) -> Joined:
        server = self._client.wait_until_up(self._timeouts.connect_timeout_s)
        if state is not None and self._embedded and not server.durable:
            raise errors.StateError(
                "the embedded server keeps its state in memory, so there is no run to resume: train against "
                "`infobatch serve` (url='HOST:PORT'), which outlives this process, or start without the state"
            )
        if options.fresh:
            print(f"infobatch: run={options.run!r}", flush=True)
        if options.policy.biased:
            _log.warning("policy %r with these settings is biased: no weights make up for it", options.policy.name)
        spec = options.spec(manifest, global_batch=global_batch)
        return join_run(self._client, options, spec, state, start_epoch)

    def _fetch(self, epoch: int, plan_id: str) -> EpochPlan:
        """The server's plan. What is queued goes first: it may be the word that the epoch before is over."""
        deadline = time.monotonic() + self._timeouts.plan_timeout_s
        if not self.pusher.flush(self._timeouts.plan_timeout_s):
            self.pusher.check()
            raise errors.ServerUnreachableError(
                f"{self._client.address} has not answered for {self.pusher.lag_s:.0f} s"
            )
        return fetch_plan(
            self._client,
            run_id=self.run_id,
            generation=self.generation,
            epoch=epoch,
            plan_id=plan_id,
            timeout_s=max(self._timeouts.call_timeout_s, deadline - time.monotonic()),
        )

    def _unpruned(self, epoch: int) -> EpochPlan:
        return unpruned_plan(
            run_id=self.run_id,
            epoch=epoch,
            seed=self.spec.seed,
            shard_sizes=np.asarray(self.spec.shard_sizes),
            order=self.spec.order,
            subset=self.spec.subset,
        )


def _options_for(options: RunOptions, state: ResumeState) -> RunOptions:
    """A made-up run name gives way to the state's."""
    return replace(options, run=state.run, fresh=False) if options.fresh else options


def _warn_of_oddities(plan: EpochPlan, policy: Policy) -> None:
    if not plan.kept:
        warnings.warn(f"epoch {plan.epoch}: the plan keeps no sample at all; prune less", stacklevel=3)
    if not plan.unpruned and policy.finds_odd(plan.low_share):
        warnings.warn(
            f"epoch {plan.epoch}: {plan.low_share:.0%} of the scored samples are on the pruned side of the mean "
            f"{plan.threshold:g}: {ODD_SHARE_ADVICE}",
            stacklevel=3,
        )
