"""Who may attach to a run, and what the run is like afterwards: rules without a clock, a lock or a store."""

from __future__ import annotations

from dataclasses import dataclass, replace

from infobatch_server.state.run_state import Lease, ResumePoint, RunState
from infobatch_stream.errors import ConfigError, RunBusyError, RunConflictError, RunNotFoundError
from infobatch_stream.plan.epoch_plan import full_plan_id
from infobatch_stream.run_spec import RunSpec

__all__ = ["MAX_GENERATION", "AttachRequest", "Rewind", "attach", "check_attach", "is_same_call"]

MAX_GENERATION = 2**24 - 1
"""24 bits of the draw's key."""

_MAX_RANKS = 2**20


@dataclass(frozen=True, kw_only=True)
class AttachRequest:
    """A job that wants a run.

    Args:
        lease: the job and its ranks.
        resume: where its training begins.
        takeover: takes the run from another job.
    """

    lease: Lease
    resume: ResumePoint
    takeover: bool = False

    def __post_init__(self) -> None:
        lease = self.lease
        for name, text in (("job", lease.job), ("host", lease.host)):
            if not 1 <= len(text) <= 255 or not text.isprintable():
                raise ConfigError(f"{name}={text[:300]!r} must have 1 to 255 printable characters")
        if len(lease.nonce) != 16:
            raise ConfigError(f"nonce has {len(lease.nonce)} bytes, not 16")
        if not 1 <= lease.world_size <= _MAX_RANKS:
            raise ConfigError(f"world_size={lease.world_size} is outside [1, {_MAX_RANKS}]")


@dataclass(frozen=True, kw_only=True)
class Rewind:
    """What attaching changes.

    Args:
        state: the run's from now on.
        stamps_to: stamps are lowered to the start of this epoch.
        marks_from: marks of this epoch and later ones are dropped.
    """

    state: RunState
    stamps_to: int
    marks_from: int


def is_same_call(state: RunState, request: AttachRequest) -> bool:
    """Whether the run's present job has sent this call before: its answer was lost."""
    held, asked = state.lease, request.lease
    if held is None or state.detached:
        return False
    return (held.job, held.attempt, held.nonce) == (asked.job, asked.attempt, asked.nonce)


def check_attach(spec: RunSpec, run_id: bytes, state: RunState, request: AttachRequest, lease_left_s: float) -> None:
    """Raises where a job may not attach.

    Args:
        spec: the run's.
        run_id: the run's, 16 bytes.
        state: the run's; its `trained` is up to date.
        request: the job's.
        lease_left_s: seconds for which the present job's lease still holds; 0 where none does.

    Raises:
        RunBusyError: another job holds the lease.
        RunConflictError: a new training on a run that was trained.
        RunNotFoundError: the plan to go on with is not kept.
        ConfigError: an epoch outside the schedule, or a plan of another epoch.
    """
    held, next_attempt = state.lease, _is_next_attempt(state.lease, request.lease)
    if held is not None and lease_left_s > 0 and not (next_attempt or request.takeover):
        raise RunBusyError(
            f"run {spec.run!r} is held by job {held.job!r} attempt {held.attempt} on host {held.host!r}, pid "
            f"{held.pid}, for another {lease_left_s:.0f} s unless it calls again; end that job and wait until "
            "its lease runs out, or use another run name",
            retry_after_s=lease_left_s,
        )
    if request.resume.new and state.trained and not next_attempt:
        raise RunConflictError(
            f"run {spec.run!r} has been trained (newest epoch: {state.last_epoch}), and this job begins a new "
            'training: load a state to go on with it, use another run name, or start it over with if_exists="restart"'
        )
    _check_resume(spec, run_id, state, request.resume)
    if state.generation >= MAX_GENERATION:
        raise RunConflictError(f"run {spec.run!r} has had {MAX_GENERATION} generations, which is all there are")


def attach(state: RunState, request: AttachRequest, run_id: bytes) -> Rewind:
    """The next generation of a run, for a request that `check_attach` let pass."""
    resume = request.resume
    epoch = resume.epoch
    last_epoch = epoch if resume.inside else epoch - 1
    unpruned = {marked for marked in state.unpruned if marked < epoch}
    if resume.plan_id == full_plan_id(run_id, epoch):
        unpruned.add(epoch)
    return Rewind(
        state=replace(
            state,
            generation=state.generation + 1,
            lease=request.lease,
            detached=False,
            start_epoch=epoch,
            last_epoch=last_epoch,
            unpruned=frozenset(unpruned),
            plan_ids={at: plan_id for at, plan_id in state.plan_ids.items() if at <= last_epoch},
            drawn={at: line for at, line in state.drawn.items() if at <= last_epoch},
            ended={at: trained for at, trained in state.ended.items() if at < epoch},
        ),
        stamps_to=last_epoch + 1,
        marks_from=epoch,
    )


def _is_next_attempt(held: Lease | None, asked: Lease) -> bool:
    return held is not None and asked.job == held.job != "none" and asked.attempt > held.attempt


def _check_resume(spec: RunSpec, run_id: bytes, state: RunState, resume: ResumePoint) -> None:
    epochs = spec.schedule.epochs
    # A training that is over resumes at the start of the epoch after its last.
    if resume.epoch > (epochs - 1 if resume.inside else epochs):
        raise ConfigError(
            f"resume at epoch {resume.epoch}: run {spec.run!r} has {epochs} epochs; a longer training is another "
            'run: use another run name, or start this one over with if_exists="restart"'
        )
    if not resume.inside or resume.plan_id == full_plan_id(run_id, resume.epoch):
        return
    if state.plan_ids.get(resume.epoch) != resume.plan_id:
        kept = ", ".join(plan_id for _, plan_id in sorted(state.plan_ids.items())) or "none"
        raise RunNotFoundError(
            f"run {spec.run!r} keeps no plan {resume.plan_id!r} of epoch {resume.epoch} (kept: {kept}); "
            "load a state of a kept plan, or one from the start of an epoch"
        )
