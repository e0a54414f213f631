"""One run: jobs that attach, scores, ends of epochs, and changes to the run."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from infobatch_server.runs.attach import AttachRequest, attach, check_attach, is_same_call
from infobatch_server.runs.core import LEASE_S, RunCore
from infobatch_server.runs.memory import MemoryBudget
from infobatch_server.runs.plans import RunPlans
from infobatch_server.runs.score_feed import PushOutcome
from infobatch_server.state.limits import Limits
from infobatch_server.state.run_state import EpochMark
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_server.store.interface import RunStore, StoredRun
from infobatch_stream.errors import ConfigError, RunBusyError, RunConflictError
from infobatch_stream.plan.epoch_plan import EpochPlan, full_plan_id
from infobatch_stream.ratios import anneal_epoch
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.scores.table import ScoreTable, UpdateCounts

__all__ = ["LEASE_S", "Run"]

log = logging.getLogger(__name__)

_MAX_PLAN_ID = 256


class Run:
    """One run's state machine. Safe to call from many threads.

    Args:
        stored: the run as its store loads it; a new one is empty.
        store: saves every change before it is answered.
        limits: the server's limits.
        clock: monotonic clock, in seconds.
        memory: the server's.
    """

    def __init__(
        self, stored: StoredRun, store: RunStore, limits: Limits, clock: Callable[[], float], memory: MemoryBudget
    ) -> None:
        self.core = RunCore(stored, store, limits, clock, memory)
        self.plans = RunPlans(self.core)

    @property
    def run_id(self) -> bytes:
        """The run's id, 16 bytes; immutable."""
        return self.core.run_id

    @property
    def spec(self) -> RunSpec:
        """The run's spec."""
        return self.core.spec

    def attach(self, request: AttachRequest) -> int:
        """Attaches a job and returns its generation. Idempotent.

        Raises:
            InfoBatchError: any error of `infobatch_server.runs.attach.check_attach`; the run is unchanged then.
        """
        core = self.core
        with core.feed.exclusive():
            core.check_exists()
            if is_same_call(core.state, request):
                core.renew()
                return core.state.generation
            check_attach(core.spec, core.run_id, core.state, request, core.lease_left_s)
            rewind = attach(core.state, request, core.run_id)
            core.store.rewind(core.run_id, rewind.state, rewind.stamps_to, rewind.marks_from)
            core.feed.change(lambda table: table.lower_stamps(rewind.stamps_to))
            core.feed.forget_clients(request.lease.world_size)
            core.barrier.rewind(rewind.marks_from)
            core.detached_ranks.clear()
            core.adopt(rewind.state)
            core.renew()
        lease = request.lease
        log.info(
            "run %s: job %s attempt %d on %s (pid %d, %d ranks) is generation %d, from epoch %d%s",
            *(core.spec.run, lease.job, lease.attempt, lease.host, lease.pid, lease.world_size),
            *(rewind.state.generation, request.resume.epoch, ", inside it" if request.resume.inside else ""),
        )
        return rewind.state.generation

    def detach(self, generation: int, rank: int = 0) -> None:
        """Records that a rank has ended cleanly; the last rank releases the lease. Idempotent.

        Raises:
            ConfigError: the rank is outside the generation's world size.
        """
        core = self.core
        with core.lock:
            lease = core.admit(generation)
            core.check_rank(rank, lease)
            core.detached_ranks.add(rank)
            if len(core.detached_ranks) == lease.world_size and not core.state.detached:
                core.save(replace(core.state, detached=True))

    def heartbeat(self, generation: int) -> None:
        """Renews the lease."""
        with self.core.lock:
            self.core.admit(generation)

    def push(self, batch: ScoreBatch) -> PushOutcome:
        """Stores the scores of a push once, even if the push is sent several times.

        Raises:
            RunConflictError: the epoch was not opened.
        """

        def admit() -> None:
            self.core.admit(batch.generation)
            self.core.check_opened(batch.epoch)

        return self.core.feed.push(batch, admit)

    def end_epoch(self, mark: EpochMark) -> tuple[int, ...]:
        """Records that a rank has pushed all its scores of an epoch; returns the ranks that have not. Idempotent.

        Raises:
            RunConflictError: the epoch was not opened, or the plan is not the epoch's.
        """
        core = self.core
        with core.lock:
            lease = core.admit(mark.generation)
            world_size = lease.world_size
            core.check_rank(mark.rank, lease)
            core.check_epoch(mark.epoch)
            full = mark.plan_id == full_plan_id(core.run_id, mark.epoch)
            self._check_mark(mark, full)
            state = core.state
            state = replace(
                state,
                last_epoch=max(state.last_epoch, mark.epoch),
                trained=state.trained or mark.end_position > mark.start_position,
                unpruned=state.unpruned | {mark.epoch} if full else state.unpruned,
            )
            trained = core.barrier.trained(mark, world_size)
            if trained is not None:
                left_out = core.barrier.left_out(mark)
                state = replace(
                    state,
                    ended={**state.ended, mark.epoch: trained},
                    left_out={**state.left_out, mark.epoch: left_out},
                )
            core.store.add_mark(core.run_id, mark, state)
            core.adopt(state)
            core.barrier.add(mark)
            if not core.barrier.keeps(mark.epoch):
                return ()
            return core.barrier.missing(mark.epoch, mark.generation, world_size)

    def amend(self, *, epochs: int | None, delta: str | None, anneal_epoch_check: int) -> RunSpec:
        """Changes the number of epochs, δ, or both; frozen plans stay unchanged.

        Raises:
            ConfigError: a value is invalid, or `anneal_epoch_check` differs from the resulting anneal epoch.
            RunConflictError: fewer epochs than were opened.
        """
        core = self.core
        with core.feed.exclusive():
            core.check_exists()
            old = core.spec
            policy = old.policy if delta is None else replace(old.policy, delta=delta)
            spec = replace(old, epochs=old.epochs if epochs is None else epochs, policy=policy)
            schedule = spec.schedule
            if anneal_epoch_check != schedule.anneal_epoch:
                exact = anneal_epoch(policy.delta, spec.epochs)
                raise ConfigError(
                    f"anneal_epoch={anneal_epoch_check}, but ⌊{policy.delta}·{spec.epochs}⌋ = {exact} "
                    f"(anneal={policy.anneal}) gives {schedule.anneal_epoch}"
                )
            if spec.epochs <= core.state.last_epoch:
                raise RunConflictError(
                    f"run {core.spec.run!r} has opened epoch {core.state.last_epoch}, so epochs must be at least "
                    f"{core.state.last_epoch + 1}; got {spec.epochs}"
                )
            core.store.amend(core.run_id, spec)
            core.spec = spec
            return spec

    def import_scores(
        self, first: int, scores: npt.NDArray[np.float32], stamps: npt.NDArray[np.uint16] | None
    ) -> UpdateCounts:
        """Imports scores of consecutive samples into a run that no job holds.

        The next draw gets a seed that depends on them, so that uniforms that shaped them never decide about them.

        Raises:
            RunBusyError: a job holds the run.
            ConfigError: samples outside [0, N), or invalid stamps.
        """
        core = self.core
        with core.feed.exclusive():
            self._check_free("seeded")
            stop = first + len(scores)
            if stop > core.spec.num_samples:
                raise ConfigError(f"samples [{first}, {stop}) are outside [0, {core.spec.num_samples})")
            if len(scores) and not core.state.scores_imported:
                core.save(replace(core.state, scores_imported=True))
            core.store.import_scores(core.run_id, first, scores, stamps)
            return core.feed.change(lambda table: table.import_scores(first, scores, stamps))

    def import_plan(self, plan: EpochPlan) -> None:
        """Imports a plan into a run that no job holds.

        Raises:
            RunBusyError: a job holds the run.
            ConfigError: the plan has other samples, shards, seed or order, or an invalid generation or epoch.
        """
        with self.core.feed.exclusive():
            self._check_free("seeded")
            self.plans.import_plan(plan)

    def forget_drops(self) -> int:
        """Forgets which samples the pipeline dropped; returns their number. Plans that are drawn already stay."""
        core = self.core
        with core.feed.exclusive():
            core.check_exists()
            core.store.forget_drops(core.run_id)
            return core.feed.change(lambda table: table.dropped.clear())

    def read_scores(self, first: int, stop: int, step: int) -> Iterator[tuple[int, ScoreTable]]:
        """Copies of consecutive parts of the table as (first sample, part); each part is a consistent snapshot."""
        for start in range(first, stop, step):
            with self.core.lock:
                self.core.check_exists()
                part = self.core.feed.table.copy(start, min(start + step, stop))
            yield start, part

    def delete(self, *, force: bool) -> None:
        """Marks the run as deleted, and deletes its stored data.

        Raises:
            RunBusyError: a job holds the run, and `force` is off.
            RunNotFoundError: the run was deleted before.
        """
        with self.core.feed.exclusive():
            if not force:
                self._check_free("deleted")
            self.core.check_exists()
            self.core.store.delete(self.core.run_id)
            self.core.deleted = True

    def _check_free(self, what: str) -> None:
        core = self.core
        core.check_exists()
        lease, left_s = core.state.lease, core.lease_left_s
        if lease is not None and left_s > 0:
            raise RunBusyError(
                f"run {core.spec.run!r} can't be {what}: {lease.holder}, holds it for another {left_s:.0f} s unless it "
                "calls again; end that job and wait until its lease expires",
                retry_after_s=left_s,
            )

    def _check_mark(self, mark: EpochMark, full: bool) -> None:
        if not 0 <= mark.start_position <= mark.end_position <= self.spec.num_samples:
            raise ConfigError(
                f"positions [{mark.start_position}, {mark.end_position}) are outside [0, {self.spec.num_samples}]"
            )
        if not 1 <= len(mark.plan_id) <= _MAX_PLAN_ID:
            raise ConfigError(f"plan_id must have 1 to {_MAX_PLAN_ID} characters; got {len(mark.plan_id)}")
        # An unpruned epoch needs no plan from the server, so its mark may open it.
        self.core.check_opened(mark.epoch, ahead=1 if full else 0)
        if full:
            return
        kept = self.core.state.plan_ids.get(mark.epoch)
        if kept is None and re.match(rf"{self.run_id.hex()}-\d+-{mark.epoch}-", mark.plan_id):
            return
        if mark.plan_id != kept:
            if kept is None and mark.epoch in self.core.state.unpruned:
                kept = full_plan_id(self.run_id, mark.epoch)
            expected = f"the run's plan is {kept!r}" if kept else "the run never had such a plan"
            raise RunConflictError(f"rank {mark.rank} trained plan {mark.plan_id!r} in epoch {mark.epoch}; {expected}")
