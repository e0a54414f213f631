"""The rules of attaching: whether a job may attach to a run, and the state that follows. No clock, lock or store."""

from __future__ import annotations

from dataclasses import dataclass, replace

from infobatch_server.state.run_state import Lease, ResumePoint, RunState
from infobatch_stream.errors import ConfigError, RunBusyError, RunConflictError, RunNotFoundError
from infobatch_stream.plan.epoch_plan import full_plan_id
from infobatch_stream.run_spec import RunSpec

__all__ = ["MAX_GENERATION", "AttachRequest", "Rewind", "attach", "check_attach", "is_same_call"]

MAX_GENERATION = 2**24 - 1
"""The draw's key has 24 bits for the generation."""

_MAX_RANKS = 2**20
_REMEDIES = (
    'load a state to resume the run, use another run name, or start it over with if_exists="restart" '
    "in connection=Connection(…)"
)


@dataclass(frozen=True, kw_only=True)
class AttachRequest:
    """A job's request to attach to a run.

    Args:
        lease: the job and its ranks.
        resume: where the job's training begins.
        takeover: take the run from another job.

    Raises:
        ConfigError: the job, the host, the nonce or the world size is invalid.
    """

    lease: Lease
    resume: ResumePoint
    takeover: bool = False

    def __post_init__(self) -> None:
        lease = self.lease
        for name, text in (("job", lease.job), ("host", lease.host)):
            if not 1 <= len(text) <= 255 or not text.isprintable():
                raise ConfigError(f"{name} must have 1 to 255 printable characters; got {text[:300]!r}")
        if len(lease.nonce) != 16:
            raise ConfigError(f"nonce must have 16 bytes; got {len(lease.nonce)}")
        if not 1 <= lease.world_size <= _MAX_RANKS:
            raise ConfigError(f"world_size={lease.world_size} is outside [1, {_MAX_RANKS}]")


@dataclass(frozen=True, kw_only=True)
class Rewind:
    """The changes that attaching makes to a run.

    Args:
        state: the new state of the run.
        stamps_to: lower the stamps to the start of this epoch.
        marks_from: drop the marks of this epoch and of later ones.
    """

    state: RunState
    stamps_to: int
    marks_from: int


def is_same_call(state: RunState, request: AttachRequest) -> bool:
    """Whether the attached job repeats the call that attached it, because the answer was lost."""
    current, new = state.lease, request.lease
    if current is None or state.detached:
        return False
    return (current.job, current.attempt, current.nonce) == (new.job, new.attempt, new.nonce)


def check_attach(spec: RunSpec, run_id: bytes, state: RunState, request: AttachRequest, lease_left_s: float) -> None:
    """Raises an error if a job may not attach.

    Args:
        spec: the run's spec.
        run_id: the run's id, 16 bytes.
        state: the run's state; its `trained` is up to date.
        request: the job's request.
        lease_left_s: seconds until the attached job's lease expires; 0 if no job holds the run.

    Raises:
        RunBusyError: another job holds the lease; without `retry_after_s` if its end would not help.
        RunConflictError: a new training on a trained run, or the run has no generations left.
        RunNotFoundError: the run no longer keeps the plan to resume.
        ConfigError: the epoch is outside the schedule.
    """
    current, next_attempt = state.lease, _is_next_attempt(state.lease, request.lease)
    starts_over = request.resume.new and state.trained and not next_attempt
    if current is not None and lease_left_s > 0 and not (next_attempt or request.takeover):
        held = f"run {spec.run!r} is held by {current.holder}, for another {lease_left_s:.0f} s unless it calls again"
        if starts_over:  # would be refused then, too
            raise RunBusyError(
                f"{held}. It {_trained(spec, state)}, and this job starts a new training: {_REMEDIES}, which waits "
                "until that job has ended or its lease has expired; takeover=True beside it takes the run at once"
            )
        raise RunBusyError(
            f"{held}; end that job and wait until its lease expires, use another run name, or take the run from it "
            "with connection=Connection(takeover=True)",
            retry_after_s=lease_left_s,
        )
    if starts_over:
        raise RunConflictError(
            f"run {spec.run!r} {_trained(spec, state)}, and this job starts a new training: {_REMEDIES}"
        )
    _check_resume(spec, run_id, state, request.resume)
    if state.generation >= MAX_GENERATION:
        raise RunConflictError(f"run {spec.run!r} has used all {MAX_GENERATION} generations; use another run name")


def attach(state: RunState, request: AttachRequest, run_id: bytes) -> Rewind:
    """The changes that start the next generation of a run, for a request that `check_attach` accepts."""
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
            left_out={at: count for at, count in state.left_out.items() if at < epoch},
        ),
        stamps_to=last_epoch + 1,
        marks_from=epoch,
    )


def _trained(spec: RunSpec, state: RunState) -> str:
    epochs = spec.schedule.epochs
    if epochs - 1 in state.ended:
        return f"has been trained to its end (all {epochs} epochs)"
    return f"has been trained (newest epoch: {state.last_epoch} of {epochs})"


def _is_next_attempt(current: Lease | None, new: Lease) -> bool:
    return current is not None and new.job == current.job != "none" and new.attempt > current.attempt


def _check_resume(spec: RunSpec, run_id: bytes, state: RunState, resume: ResumePoint) -> None:
    epochs = spec.schedule.epochs
    # A complete training resumes at the start of the epoch after its last one.
    if resume.epoch > (epochs - 1 if resume.inside else epochs):
        raise ConfigError(
            f"can't resume at epoch {resume.epoch}: run {spec.run!r} has only {epochs} epochs; a longer training needs "
            'a new run: use another run name, or start this one over with if_exists="restart"'
        )
    if not resume.inside or resume.plan_id == full_plan_id(run_id, resume.epoch):
        return
    if state.plan_ids.get(resume.epoch) != resume.plan_id:
        kept = ", ".join(plan_id for _, plan_id in sorted(state.plan_ids.items())) or "none"
        raise RunNotFoundError(
            f"run {spec.run!r} doesn't keep plan {resume.plan_id!r} of epoch {resume.epoch} (it keeps: {kept}); "
            "load a state of one of these plans, or a state from the start of an epoch"
        )
