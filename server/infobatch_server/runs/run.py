"""One run: attaching, scores, ended epochs, and what may be changed from outside."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from infobatch_server.runs.attach import AttachRequest, attach, check_attach, is_same_call
from infobatch_server.runs.core import LEASE_S, RunCore
from infobatch_server.runs.plans import RunPlans
from infobatch_server.runs.score_feed import PushOutcome
from infobatch_server.state.limits import Limits
from infobatch_server.state.run_state import EpochMark
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_server.store.interface import RunStore, StoredRun
from infobatch_stream.errors import ConfigError, RunBusyError, RunConflictError
from infobatch_stream.plan.epoch_plan import EpochPlan, full_plan_id
from infobatch_stream.pruning.schedule import Schedule
from infobatch_stream.ratios import anneal_epoch
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.scores.table import ScoreTable, UpdateCounts

__all__ = ["LEASE_S", "Run"]

log = logging.getLogger(__name__)

_MAX_PLAN_ID = 256


class Run:
    """One run's state machine. Safe to call from many threads.

    Args:
        stored: the run as its store gives it back; a new one is empty.
        store: keeps what changes, before it is answered.
        limits: bounds.
        clock: seconds that only rise.
    """

    def __init__(self, stored: StoredRun, store: RunStore, limits: Limits, clock: Callable[[], float]) -> None:
        self.core = RunCore(stored, store, limits, clock)
        self.plans = RunPlans(self.core)

    @property
    def run_id(self) -> bytes:
        """16 bytes; immutable."""
        return self.core.run_id

    @property
    def spec(self) -> RunSpec:
        """What the run is."""
        return self.core.spec

    def attach(self, request: AttachRequest) -> int:
        """Attaches a job, and gives its generation; the same call again gives the same answer.

        Raises:
            InfoBatchError: what infobatch_server.runs.attach.check_attach raises; nothing has changed then.
        """
        core = self.core
        with core.feed.quiet():
            core.check_exists()
            if is_same_call(core.state, request):
                core.renew()
                return core.state.generation
            check_attach(core.spec, core.run_id, core.state, request, core.lease_left_s)
            rewind = attach(core.state, request, core.run_id)
            core.store.rewind(core.run_id, rewind.state, rewind.stamps_to, rewind.marks_from)
            core.feed.table.lower_stamps(rewind.stamps_to)
            core.feed.forget_clients()
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
        """A rank has ended cleanly; the last one to say so frees the lease. Again is the same.

        Raises:
            ConfigError: a rank outside the generation's world.
        """
        core = self.core
        with core.turn:
            lease = core.admit(generation)
            core.check_rank(rank, lease)
            core.detached_ranks.add(rank)
            if len(core.detached_ranks) == lease.world_size and not core.state.detached:
                core.save(replace(core.state, detached=True))

    def heartbeat(self, generation: int) -> None:
        """Renews the lease."""
        with self.core.turn:
            self.core.admit(generation)

    def push(self, batch: ScoreBatch) -> PushOutcome:
        """Stores scores once, however often a push is sent.

        Raises:
            RunConflictError: of an epoch that was not opened.
        """

        def admit() -> None:
            self.core.admit(batch.generation)
            self.core.check_opened(batch.epoch)

        return self.core.feed.push(batch, admit)

    def end_epoch(self, mark: EpochMark) -> tuple[int, ...]:
        """One rank has pushed all of its scores of an epoch; gives the ranks that have not. Again is the same.

        Raises:
            RunConflictError: an epoch that was not opened, or a plan that isn't this epoch's.
        """
        core = self.core
        with core.turn:
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
                state = replace(state, ended={**state.ended, mark.epoch: trained})
            core.store.add_mark(core.run_id, mark, state)
            core.adopt(state)
            core.barrier.add(mark)
            return core.barrier.missing(mark.epoch, mark.generation, world_size)

    def amend(self, *, epochs: int | None, delta: str | None, anneal_epoch_check: int) -> RunSpec:
        """Another number of epochs, or another δ; plans that are frozen stay as they are.

        Raises:
            ConfigError: values that can't be meant, or `anneal_epoch_check` isn't what they give.
            RunConflictError: fewer epochs than were opened.
        """
        core = self.core
        with core.feed.quiet():
            core.check_exists()
            old = core.spec.schedule
            schedule = Schedule(
                epochs=old.epochs if epochs is None else epochs,
                delta=old.delta if delta is None else delta,
                anneal=old.anneal,
            )
            if anneal_epoch_check != schedule.anneal_epoch:
                exact = anneal_epoch(schedule.delta, schedule.epochs)
                raise ConfigError(
                    f"anneal_epoch={anneal_epoch_check}, but ⌊{schedule.delta}·{schedule.epochs}⌋ = {exact} "
                    f"(anneal={schedule.anneal}) gives {schedule.anneal_epoch}"
                )
            if schedule.epochs <= core.state.last_epoch:
                raise RunConflictError(
                    f"run {core.spec.run!r} has opened epoch {core.state.last_epoch}: epochs={schedule.epochs} is "
                    f"too few, {core.state.last_epoch + 1} is the least"
                )
            spec = replace(core.spec, schedule=schedule)
            core.store.amend(core.run_id, spec)
            core.spec = spec
            return spec

    def seed_scores(
        self, first: int, scores: npt.NDArray[np.float32], stamps: npt.NDArray[np.uint16] | None
    ) -> UpdateCounts:
        """Puts scores of consecutive samples into a run that no job holds.

        Raises:
            RunBusyError: a job does.
            ConfigError: outside [0, N), or stamps that don't fit.
        """
        core = self.core
        with core.feed.quiet():
            self._check_free("seeded")
            stop = first + len(scores)
            if stop > core.spec.num_samples:
                raise ConfigError(f"samples [{first}, {stop}) are outside [0, {core.spec.num_samples})")
            core.store.seed(core.run_id, first, scores, stamps)
            return core.feed.table.seed(first, scores, stamps)

    def seed_plan(self, plan: EpochPlan) -> None:
        """Puts a plan into a run that no job holds.

        Raises:
            RunBusyError: a job does.
            ConfigError: a plan of other samples, shards, seed or order.
        """
        with self.core.feed.quiet():
            self._check_free("seeded")
            self.plans.seed(plan)

    def read_scores(self, first: int, stop: int, step: int) -> Iterator[tuple[int, ScoreTable]]:
        """Copies of consecutive parts of the table, (first sample, part), each of one moment."""
        for start in range(first, stop, step):
            with self.core.turn:
                self.core.check_exists()
                part = _copy(self.core.feed.table, start, min(start + step, stop))
            yield start, part

    def delete(self, *, force: bool) -> None:
        """Marks the run as gone and drops what is stored of it.

        Raises:
            RunBusyError: a job holds it, and `force` is off.
        """
        with self.core.feed.quiet():
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
                f"run {core.spec.run!r} can't be {what}: job {lease.job!r} on host {lease.host!r}, pid {lease.pid}, "
                f"holds it for another {left_s:.0f} s unless it calls again; end that job, and wait until then",
                retry_after_s=left_s,
            )

    def _check_mark(self, mark: EpochMark, full: bool) -> None:
        if not 0 <= mark.start_position <= mark.end_position <= self.spec.num_samples:
            raise ConfigError(
                f"positions [{mark.start_position}, {mark.end_position}) are outside [0, {self.spec.num_samples}]"
            )
        if not 1 <= len(mark.plan_id) <= _MAX_PLAN_ID:
            raise ConfigError(f"plan_id has {len(mark.plan_id)} characters; the plan that was trained must be named")
        # Whoever trains unpruned needs no plan from here, so that the mark itself may open the epoch.
        self.core.check_opened(mark.epoch, ahead=1 if full else 0)
        if full:
            return
        kept = self.core.state.plan_ids.get(mark.epoch)
        if kept is None and re.match(rf"{self.run_id.hex()}-\d+-{mark.epoch}-", mark.plan_id):
            return
        if mark.plan_id != kept:
            if kept is None and mark.epoch in self.core.state.unpruned:
                kept = full_plan_id(self.run_id, mark.epoch)
            own = f"the run's is {kept!r}" if kept else "the run never had such a plan"
            raise RunConflictError(f"rank {mark.rank} trained plan {mark.plan_id!r} in epoch {mark.epoch}; {own}")


def _copy(table: ScoreTable, first: int, stop: int) -> ScoreTable:
    part = ScoreTable(stop - first, table.columns)
    for name in ("score", "stamp", "visits"):
        getattr(part, name)[:] = getattr(table, name)[first:stop]
    for name, values in part.extra.items():
        values[:] = table.extra[name][first:stop]
    return part
