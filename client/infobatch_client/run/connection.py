"""A run as one training process sees it: created or joined, attached, its plans, its scores, its end."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from infobatch_client.embedded.server import EmbeddedServer
from infobatch_client.plans.fetch import fetch_plan
from infobatch_client.plans.node_plans import NodePlans
from infobatch_client.ranks.ranks import Ranks
from infobatch_client.rpc.client import ScoreClient
from infobatch_client.run.joining import Joined, join_run
from infobatch_client.run.options import RunOptions
from infobatch_client.run.resume_state import ResumeState
from infobatch_client.run.score_pusher import ScorePusher
from infobatch_client.tie.ticket import Ticket
from infobatch_client.tie.weighting import HostScores
from infobatch_stream import errors
from infobatch_stream.manifest import Manifest
from infobatch_stream.plan.epoch_plan import EpochPlan, full_plan_id, unpruned_plan
from infobatch_stream.pruning.policies import Policy
from infobatch_stream.pruning.policies.pruned_class import ODD_SHARE_ADVICE
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["TrainingRun"]

_DETACH_TIMEOUT_S = 2.0
_log = logging.getLogger(__name__)


class TrainingRun:
    """Connects on construction: contacts the server, creates or joins the run, and attaches to it.

    All ranks of a job make theirs together. Not picklable; lives in the process that owns the loop.

    Args:
        options: what the user asked for.
        manifest: the shards'.
        ranks: of the job; they have agreed on all the rest.
        batch_size: rows by rank and step, for the order's default.
        state: where a checkpoint left off, or None for a new training.
        start_epoch: without a state, the epoch to begin with.

    Raises:
        ServerUnreachableError: no server within `connect_timeout_s`.
        RunConflictError: the run exists with another spec, or has trained already and no state was given.
        RunBusyError: another job is training it.
        StateError: `state` belongs to another run, data set or order.
        RanksError: one of these on another rank.
    """

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
        self._timeouts = options.timeouts
        self._ranks = ranks
        self._pid = os.getpid()
        self._embedded: EmbeddedServer | None = None
        self._unpruned_epochs: set[int] = set()
        self._plans = NodePlans(ranks)
        self._client = ScoreClient(
            options.url or self._start_embedded(options.state_dir), call_timeout_s=self._timeouts.call_timeout_s
        )
        try:
            self.joined = self._join(options, manifest, batch_size, state, start_epoch)
        except BaseException:
            self._let_go()
            raise
        self.run_id, self.spec, self.generation = self.joined.run_id, self.joined.spec, self.joined.generation
        self.pusher: ScorePusher | None = None
        if ranks.pushes:
            self.pusher = ScorePusher(
                self._client,
                run_id=self.run_id,
                generation=self.generation,
                heartbeat_interval_s=self.joined.heartbeat_interval_s,
                find_end=self._server_end,
            )

    def check(self) -> None:
        """Raises what made the pusher stop, if something did, or that the embedded server is gone."""
        if self.pusher is not None:
            self.pusher.check()
        if (end := self._server_end()) is not None:
            raise end

    def push(self, ticket: Ticket, pushed: HostScores) -> None:
        """Queues scores (B,), where this process is the one of its replicas that pushes.

        Raises:
            ServerError: the pusher has stopped.
        """
        self._check_process()
        if self.pusher is not None:
            self.pusher.check()
            self.pusher.put_scores(ticket.epoch, ticket.index, pushed.scores, pushed.ready)

    def plan(self, epoch: int, plan_id: str = "") -> tuple[EpochPlan, str]:
        """An epoch's plan and its file; unpruned where a node can't have it in `plan_timeout_s`. All ranks together.

        Args:
            epoch: the epoch.
            plan_id: the plan of a resumed epoch, which nothing can stand in for; "" for a new one.
        """
        found = None
        if plan_id != full_plan_id(self.run_id, epoch):
            found = self._plans.get(
                epoch, lambda: self._fetch_if_reachable(epoch, plan_id), lambda same: self._fetch(epoch, same)
            )
            if found is None:
                _log.warning("epoch %d is trained unpruned: its plan could not be had", epoch)
                self._unpruned_epochs.add(epoch)
                self._put_call("MarkUnpruned", self._mark(epoch))
        if found is None:
            found = self._plans.get(epoch, lambda: self._unpruned(epoch), lambda _: self._unpruned(epoch))
            assert found is not None, "an unpruned plan needs no server"
        _warn_of_oddities(found[0], self.spec.policy)
        return found

    def end_epoch(self, plan: EpochPlan, *, start: int, end: int, counts: pb.RowCounts) -> None:
        """Queues the word that this rank has pushed all scores of an epoch's positions [start, end)."""
        self._put_call(
            "EndEpoch",
            pb.EndEpochRequest(
                run_id=self.run_id,
                generation=self.generation,
                epoch=plan.epoch,
                rank=self._ranks.rank,
                plan_id=plan.plan_id,
                start_position=start,
                end_position=end,
                counts=counts,
            ),
        )

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits for what is queued, at most `timeout_s` (`flush_timeout_s` by default); whether it has arrived."""
        self._check_process()
        if self.pusher is None:
            return True
        return self.pusher.flush(self._timeouts.flush_timeout_s if timeout_s is None else timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Sends what is left, gives this rank's part of the lease back and closes the channel. Asks no other rank."""
        if os.getpid() != self._pid:
            return  # a forked child has no part in this
        try:
            if self.pusher is not None and self.pusher.close(
                self._timeouts.flush_timeout_s if timeout_s is None else timeout_s
            ):
                self._detach()
        finally:
            self.joined.leave()
            self._plans.close()
            self._let_go()

    def _detach(self) -> None:
        request = pb.DetachRunRequest(run_id=self.run_id, generation=self.generation, rank=self._ranks.rank)
        try:
            self._client.call("DetachRun", request, timeout_s=_DETACH_TIMEOUT_S)
        except errors.InfoBatchError as error:
            _log.warning("could not give the run's lease back, it runs out by itself: %s", error)

    def _let_go(self) -> None:
        self._client.close()
        if self._embedded:
            self._embedded.release()

    def _mark(self, epoch: int) -> pb.MarkUnprunedRequest:
        return pb.MarkUnprunedRequest(run_id=self.run_id, generation=self.generation, epoch=epoch)

    def _server_end(self) -> errors.ServerError | None:
        """Why the server will never answer again, where that is known: the embedded one has nobody to restart it."""
        embedded = self._embedded
        if embedded is None or embedded.alive:
            return None
        return errors.ServerError(
            f"the embedded score server (pid {embedded.pid}) has ended, and this run's scores with it; its log is "
            f"{embedded.log}. Start the training again with a new run, or train against an `infobatch serve` of your "
            "own (url='HOST:PORT')"
        )

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise errors.ConfigError(
                f"this loader is process {self._pid}'s, and {os.getpid()} is a fork of it, whose scores nobody would "
                "send: make a loader of its own there"
            )

    def _put_call(self, rpc: str, request: Any) -> None:
        if self.pusher is not None:
            self.pusher.put_call(rpc, request)

    def _start_embedded(self, state_dir: str | None) -> str:
        """The address of a server that all ranks share; each of them holds it."""
        if self._ranks.num_nodes > 1:
            raise errors.ConfigError(
                f"the ranks run on {self._ranks.num_nodes} nodes, and an embedded server serves one: start `infobatch "
                "serve --data-dir DIR --grpc HOST:50051 --insecure` where all of them reach it, and give its "
                'url="HOST:50051"'
            )

        def start() -> dict[str, str]:
            self._embedded = EmbeddedServer.start(state_dir)
            return {"the embedded server": self._embedded.address}

        try:
            self._ranks.compare("use one embedded server", start, "start every rank in one folder, or give state_dir=")
        except BaseException:
            if self._embedded is not None:
                self._embedded.release()
            raise
        assert self._embedded is not None
        return self._embedded.address

    def _join(
        self,
        options: RunOptions,
        manifest: Manifest,
        batch_size: int,
        state: ResumeState | None,
        start_epoch: int,
    ) -> Joined:
        ranks, joined = self._ranks, None
        asked = options.spec(manifest, global_batch=batch_size * ranks.world_size, num_nodes=ranks.num_nodes)

        def join() -> dict[str, Any]:
            nonlocal joined
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
            joined = join_run(
                self._client,
                options,
                asked,
                state,
                start_epoch=start_epoch,
                world_size=ranks.world_size,
                patience_s=math.inf if ranks.world_size == 1 else self._timeouts.agree_timeout_s,
            )
            return joined.told()

        try:
            told = ranks.from_first("join the run", join)
        except BaseException:
            if joined is not None:
                joined.leave()
            raise
        return joined or Joined.heard(told, self._client.address, asked)

    def _fetch_if_reachable(self, epoch: int, plan_id: str) -> EpochPlan | None:
        try:
            return self._fetch(epoch, plan_id)
        except errors.TryAgainError as error:
            if plan_id:
                raise
            _log.warning("no plan of epoch %d: %s", epoch, error)
            return None

    def _fetch(self, epoch: int, plan_id: str) -> EpochPlan:
        """The server's plan. What is queued goes first: it may be the word that the epoch before is over."""
        deadline = time.monotonic() + self._timeouts.plan_timeout_s
        if self.pusher is not None and not self.pusher.flush(self._timeouts.plan_timeout_s):
            self.pusher.check()
            raise errors.ServerUnreachableError(
                f"{self._client.address} has not answered for {self.pusher.lag_s:.0f} s"
            )
        if self.pusher is None:  # the ranks that push have said so too, and the server may not have heard them yet
            for unpruned in sorted(self._unpruned_epochs):
                self._client.call("MarkUnpruned", self._mark(unpruned))
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
