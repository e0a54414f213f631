"""The state of a run besides its scores: immutable values, which each transaction replaces."""

from __future__ import annotations

from dataclasses import dataclass, field

from infobatch_stream.plan.epoch_plan import EpochPlan, PlanClass, PlanGroup
from infobatch_stream.row_counts import NO_ROWS, RowCounts

__all__ = ["MARKED_EPOCHS", "EpochMark", "Lease", "PlanLine", "PlanSummary", "ResumePoint", "RunState"]

MARKED_EPOCHS = 8
"""Epochs whose marks are kept: a plan waits for those of the epoch before it alone."""


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """The point at which a job's training begins.

    Args:
        epoch: the epoch to start or to resume; 0 for a new training.
        plan_id: the plan to resume inside the epoch; "" at its start.
        new: nothing was trained before.
    """

    epoch: int = 0
    plan_id: str = ""
    new: bool = False

    @property
    def inside(self) -> bool:
        """Whether training resumes inside the epoch, rather than at its start."""
        return bool(self.plan_id)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The job that is attached to a run.

    Args:
        job: the job's name; "none" if the launcher has no name for it.
        attempt: the number of the job's start, from 0.
        nonce: 16 random bytes of the attaching process.
        host: the host of the attaching process.
        pid: the id of the attaching process.
        world_size: number of ranks.
        remember_drops: the job's plans leave out what the pipeline has dropped.
    """

    job: str
    attempt: int
    nonce: bytes
    host: str
    pid: int
    world_size: int
    remember_drops: bool = False

    @property
    def holder(self) -> str:
        """The job in words, for errors of others; without a launcher's name it is a process."""
        who = "another process" if self.job == "none" else f"job {self.job!r} attempt {self.attempt}"
        return f"{who} on host {self.host!r}, pid {self.pid}"


@dataclass(frozen=True, kw_only=True)
class EpochMark:
    """The mark of one rank's end of an epoch: the rank has pushed all its scores of the epoch.

    Args:
        generation: the rank's generation.
        epoch: the epoch.
        rank: in [0, world size of the generation).
        plan_id: the plan that was trained.
        start_position: first position of the plan that this opening of the epoch covered, over all ranks.
        end_position: the position after the last one covered.
        counts: the rank's row counts.
    """

    generation: int
    epoch: int
    rank: int
    plan_id: str
    start_position: int
    end_position: int
    counts: RowCounts = NO_ROWS


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """The figures of a plan that statistics show after its arrays are dropped."""

    plan_id: str
    epoch: int
    generation: int
    threshold: float | None
    low_share: float | None
    kept: int
    pruned: int
    never_scored: int
    prune_requested: int
    classes: tuple[PlanClass, ...]
    biased: bool
    unpruned: bool
    groups: tuple[PlanGroup, ...] = ()

    @classmethod
    def of(cls, plan: EpochPlan) -> PlanSummary:
        """The summary of a plan."""
        return cls(**{name: getattr(plan, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLine:
    """The figures that are kept of every epoch's plan.

    Args:
        kept: samples that the plan trains.
        pruned: samples that the plan prunes.
        dropped: samples that the plan leaves out because the pipeline dropped them.
        threshold: the threshold of its classes; None if it has none.
        unpruned: the plan prunes nothing.
    """

    kept: int
    pruned: int
    threshold: float | None
    unpruned: bool
    dropped: int = 0

    @classmethod
    def of(cls, plan: EpochPlan) -> PlanLine:
        """The figures of a plan."""
        return cls(
            kept=plan.kept,
            pruned=plan.pruned,
            dropped=plan.dropped,
            threshold=plan.threshold,
            unpruned=plan.unpruned,
        )


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run at one moment; immutable, so that a transaction is one replacement.

    Args:
        generation: the current generation; 0 before the first attachment.
        lease: the job that attached last; None before the first attachment.
        detached: every rank of that job has detached.
        start_epoch: the first epoch of the current generation; the plans of later epochs wait for marks.
        last_epoch: the newest epoch that was opened; -1 before the first.
        trained: an epoch ended with positions > 0, or a score was stored before the newest attachment.
        unpruned: epochs that a job trains unpruned, even if another plan was drawn.
        plan_ids: ids of the kept plans, by epoch.
        newest_plan: figures of the newest plan; None before the first.
        drawn: the plans that were drawn, by epoch; one of an epoch in `unpruned` was not trained.
        ended: samples trained, by epoch, for the epochs that every rank has ended.
        left_out: of the same epochs, samples that the pipeline dropped or that could not be read, by epoch.
        barrier_timeouts: plans that were drawn before every rank had ended the previous epoch.
        unusual_low_classes: plans whose low class was outside [0.2, 0.95] of the scored samples.
        scores_imported: scores were imported since the last draw.
        draw_seed: the seed of draws, of a run into which scores were imported before a draw; None: the spec's.
    """

    generation: int = 0
    lease: Lease | None = None
    detached: bool = False
    start_epoch: int = 0
    last_epoch: int = -1
    trained: bool = False
    unpruned: frozenset[int] = frozenset()
    plan_ids: dict[int, str] = field(default_factory=dict)
    newest_plan: PlanSummary | None = None
    drawn: dict[int, PlanLine] = field(default_factory=dict)
    ended: dict[int, int] = field(default_factory=dict)
    left_out: dict[int, int] = field(default_factory=dict)
    barrier_timeouts: int = 0
    unusual_low_classes: int = 0
    scores_imported: bool = False
    draw_seed: int | None = None
