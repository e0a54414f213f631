"""A run's plans: draws each once, finds and imports plans, and drops old ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

from infobatch_server.runs.attach import MAX_GENERATION
from infobatch_server.runs.barrier import NotReady
from infobatch_server.runs.core import RunCore
from infobatch_server.state.run_state import PlanLine, PlanSummary, RunState
from infobatch_stream.errors import ConfigError, RunConflictError, RunNotFoundError
from infobatch_stream.plan.epoch_plan import EpochPlan, full_plan_id, unpruned_plan
from infobatch_stream.planner import draw_plan, seed_after_import
from infobatch_stream.pruning.policies.pruned_class import ODD_SHARE_ADVICE
from infobatch_stream.wire.specs import seal

__all__ = ["RunPlans"]

log = logging.getLogger(__name__)

_DRAW_RETRY_MS = 100


class RunPlans:
    """The plans of one run. Safe to call from many threads.

    Args:
        core: the run's core.
    """

    def __init__(self, core: RunCore) -> None:
        self._core = core

    def find(self, plan_id: str, *, epoch: int | None = None, generation: int = 0) -> EpochPlan:
        """Finds a kept or an unpruned plan by its id; never draws a new one.

        Args:
            plan_id: the plan's id.
            epoch: the plan's epoch; None for any.
            generation: the caller's generation; 0 reads without being attached.

        Raises:
            RunNotFoundError: the run keeps no such plan.
        """
        core = self._core
        with core.lock:
            core.check_exists()
            if generation:
                core.admit(generation)
            for at, kept in core.state.plan_ids.items():
                if kept == plan_id and epoch in (None, at):
                    return core.store.get_plan(core.run_id, plan_id)
            for at in core.state.unpruned:
                if plan_id == full_plan_id(core.run_id, at) and epoch in (None, at):
                    return self._full_plan(at)
        of = "" if epoch is None else f" of epoch {epoch}"
        raise RunNotFoundError(f"run {core.spec.run!r} doesn't keep plan {plan_id!r}{of}")

    def get(self, generation: int, epoch: int) -> EpochPlan | NotReady:
        """The plan of an epoch: drawn at the first call that passes the barrier, and the same at every later call.

        Never waits: before the barrier, and while another call draws the plan, the answer is `NotReady`.

        Raises:
            RunConflictError: the epoch can't be opened yet, or the pipeline has dropped every sample.
            RunNotFoundError: the epoch was opened, but its plan is no longer kept.
        """
        core = self._core
        with core.lock:
            lease = core.admit(generation)
            core.check_epoch(epoch)
            plan = self._find_frozen(epoch)
            if plan is not None:
                return plan
            if core.feed.is_paused:
                return NotReady((), _DRAW_RETRY_MS)
            missing = None
            if epoch > core.state.start_epoch and (self._depends_on_scores(epoch) or lease.remember_drops):
                missing = core.barrier.before(epoch, generation, lease.world_size)
            if missing is not None and not missing.timed_out:
                return missing
            if lease.remember_drops:
                _check_not_all_dropped(core)
            core.feed.pause()
        return self._freeze(generation, epoch, missing, without_dropped=lease.remember_drops)

    @contextmanager
    def streaming(self, plan: EpochPlan) -> Iterator[None]:
        """While the context lasts, a stream sends a plan, whose memory stays charged until its end."""
        with self._core.streams.of(plan.plan_id, self._is_kept):
            yield

    def _is_kept(self, plan_id: str) -> bool:
        core = self._core
        # The arrays of unpruned fallbacks are the run's as long as it exists.
        return not core.deleted and (plan_id.startswith("full:") or plan_id in core.state.plan_ids.values())

    def mark_unpruned(self, generation: int, epoch: int) -> None:
        """Records that the job trains an epoch unpruned; overrides a frozen plan of the epoch.

        Raises:
            RunConflictError: the previous epoch was not opened.
        """
        core = self._core
        with core.lock:
            core.admit(generation)
            core.check_epoch(epoch)
            core.check_opened(epoch, ahead=1)
            state = core.state
            if epoch in state.unpruned:
                return
            core.save(
                replace(
                    state,
                    last_epoch=max(state.last_epoch, epoch),
                    unpruned=state.unpruned | {epoch},
                    newest_plan=_newest(state, self._full_plan(epoch)),
                )
            )
        log.info("run %s: generation %d trains epoch %d unpruned", core.spec.run, generation, epoch)

    def import_plan(self, plan: EpochPlan) -> None:
        """Imports a plan of another server or run into a run that no job holds. The caller holds `lock`.

        Its bytes were checked by PlanReader, outside the lock; here, whether it is a plan of this run.

        The run's next generation is greater than the plan's, so that no later draw uses the plan's uniforms again.

        Raises:
            ConfigError: the plan doesn't fit the run, or is older than all plans that the run keeps.
        """
        core = self._core
        _check_import(core, plan)
        core.check_epoch(plan.epoch)
        state = replace(core.state, generation=max(core.state.generation, plan.generation))
        state = self._with_plan(state, plan)
        if state.plan_ids.get(plan.epoch) != plan.plan_id:
            raise ConfigError(
                f"the plan is of epoch {plan.epoch}, and run {core.spec.run!r} keeps {core.limits.keep_plans} plans, "
                f"of epochs from {min(state.plan_ids)} on: import it into a new run"
            )
        core.store.put_plan(core.run_id, plan)
        core.save(state)

    def _find_frozen(self, epoch: int) -> EpochPlan | None:
        core = self._core
        state = core.state
        if epoch in state.unpruned:
            return self._full_plan(epoch)
        if epoch in state.plan_ids:
            return core.store.get_plan(core.run_id, state.plan_ids[epoch])
        if epoch <= state.last_epoch:
            raise RunNotFoundError(
                f"run {core.spec.run!r} no longer keeps a plan of epoch {epoch} (newest epoch: {state.last_epoch}; "
                f"it keeps {core.limits.keep_plans} plans)"
            )
        if epoch > state.last_epoch + 1:
            raise RunConflictError(
                f"epoch {epoch} of run {core.spec.run!r} can't be opened: the newest epoch is {state.last_epoch}, "
                f"so epoch {state.last_epoch + 1} is next"
            )
        return None

    def _depends_on_scores(self, epoch: int) -> bool:
        spec = self._core.spec
        return spec.policy.needs_scores and not spec.schedule.is_unpruned(epoch)

    def _freeze(self, generation: int, epoch: int, missing: NotReady | None, *, without_dropped: bool) -> EpochPlan:
        core = self._core
        try:
            imported = core.state.scores_imported and not core.spec.schedule.is_unpruned(epoch)
            draw_seed = seed_after_import(core.spec.seed, core.feed.table) if imported else core.state.draw_seed
            plan = seal(
                draw_plan(
                    core.spec,
                    core.feed.table,
                    run_id=core.run_id,
                    generation=generation,
                    epoch=epoch,
                    journal_position=core.feed.applied_position,
                    without_dropped=without_dropped,
                    draw_seed=draw_seed,
                )
            )
            core.store.put_plan(core.run_id, plan)
            with core.lock:
                state = self._with_plan(core.state, plan)
                late = missing is not None
                unusual = any(self._odd_classes(plan))
                core.save(
                    replace(
                        state,
                        barrier_timeouts=state.barrier_timeouts + late,
                        unusual_low_classes=state.unusual_low_classes + unusual,
                        scores_imported=state.scores_imported and not imported,
                        draw_seed=draw_seed,
                    )
                )
                wins = self._full_plan(epoch) if epoch in state.unpruned else plan
        finally:
            with core.lock:
                core.feed.resume()
        self._log_plan(plan, missing)
        return wins

    def _with_plan(self, state: RunState, plan: EpochPlan) -> RunState:
        kept = sorted({**state.plan_ids, plan.epoch: plan.plan_id}.items())[-self._core.limits.keep_plans :]
        marked = plan.epoch in state.unpruned
        return replace(
            state,
            last_epoch=max(state.last_epoch, plan.epoch),
            plan_ids=dict(kept),
            drawn={**state.drawn, plan.epoch: PlanLine.of(plan)},
            newest_plan=state.newest_plan if marked else _newest(state, plan),
        )

    def _full_plan(self, epoch: int) -> EpochPlan:
        # All have the same arrays: a call that streams one needs no memory of its own.
        return replace(self._first_full, epoch=epoch, plan_id=full_plan_id(self._core.run_id, epoch))

    @cached_property
    def _first_full(self) -> EpochPlan:
        spec = self._core.spec
        return unpruned_plan(
            run_id=self._core.run_id,
            epoch=0,
            seed=spec.seed,
            shard_sizes=spec.shard_sizes,
            order=spec.order,
            subset=spec.subset,
        )

    def _log_plan(self, plan: EpochPlan, missing: NotReady | None) -> None:
        run = self._core.spec.run
        log.info("run %s: plan of epoch %d keeps %d of %d", run, plan.epoch, plan.kept, plan.num_samples)
        if missing is not None:
            log.warning(
                "run %s: the plan of epoch %d was drawn after the time-out; ranks %s had not ended epoch %d",
                *(run, plan.epoch, list(missing.missing_ranks), plan.epoch - 1),
            )
        for where, share in self._odd_classes(plan):
            log.warning(
                "run %s: in epoch %d the pruned class is %.3g of the scored samples%s. %s",
                *(run, plan.epoch, share, where, ODD_SHARE_ADVICE),
            )

    def _odd_classes(self, plan: EpochPlan) -> Iterator[tuple[str, float | None]]:
        """Where a threshold makes a class of an unusual size, and its share of the scored samples."""
        shares = [("", plan.low_share), *((f" of group {group.name}", group.low_share) for group in plan.groups)]
        return ((where, share) for where, share in shares if self._core.spec.policy.finds_odd(share))


def _newest(state: RunState, plan: EpochPlan) -> PlanSummary:
    """The plan that statistics show after `plan` was added: the one of the later epoch."""
    previous = state.newest_plan
    # A summary of an epoch after the newest one is from before a rewind.
    if previous is not None and plan.epoch < previous.epoch <= state.last_epoch:
        return previous
    return PlanSummary.of(plan)


def _check_not_all_dropped(core: RunCore) -> None:
    if core.feed.table.dropped.count == core.full_samples:
        raise RunConflictError(
            f"the pipeline has dropped all {core.full_samples} samples of run {core.spec.run!r}, so that there is "
            "nothing left to train: correct the filter, and bring the samples back by `infobatch forget-drops`; or "
            "train with drops='fill'"
        )


def _check_import(core: RunCore, plan: EpochPlan) -> None:
    spec = core.spec
    if plan.generation > MAX_GENERATION:
        raise ConfigError(f"the plan's generation must be at most {MAX_GENERATION}; got {plan.generation}")
    for name, expected, actual in (
        ("samples", spec.num_samples, plan.num_samples),
        ("shards", len(spec.shard_sizes), len(plan.shard_kept)),
        ("seed", spec.seed, plan.seed),
        ("order", spec.order, plan.order),
        ("order_version", spec.order_version, plan.order_version),
        ("groups", () if spec.groups is None else spec.groups.names, tuple(group.name for group in plan.groups)),
    ):
        if expected != actual:
            raise ConfigError(f"the plan doesn't fit run {spec.run!r}: its {name} is {actual}, the run's is {expected}")
