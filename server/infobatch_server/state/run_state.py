"""What a server knows of a run beside its scores: values that one transaction replaces by the next."""

from __future__ import annotations

from dataclasses import dataclass, field

from infobatch_stream.plan.epoch_plan import EpochPlan, PlanClass
from infobatch_stream.row_counts import NO_ROWS, RowCounts

__all__ = ["EpochMark", "Lease", "PlanLine", "PlanSummary", "ResumePoint", "RunState"]


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Where a job's training begins.

    Args:
        epoch: the epoch to start or to go on with; 0 for a new training.
        plan_id: the plan to go on with, inside the epoch; "" at its start.
        new: nothing was trained before.
    """

    epoch: int = 0
    plan_id: str = ""
    new: bool = False

    @property
    def inside(self) -> bool:
        """Whether a part of the epoch was trained already."""
        return bool(self.plan_id)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The job that is attached to a run.

    Args:
        job: its name, "none" where the launcher gives none.
        attempt: its n-th start.
        nonce: 16 bytes by attaching process.
        host: where it runs.
        pid: the attaching process.
        world_size: its ranks.
    """

    job: str
    attempt: int
    nonce: bytes
    host: str
    pid: int
    world_size: int


@dataclass(frozen=True, kw_only=True)
class EpochMark:
    """One rank has pushed all of its scores of one epoch.

    Args:
        generation: the generation that ended it.
        epoch: the epoch.
        rank: in [0, world size of the generation).
        plan_id: the plan that was trained.
        start_position: first of the plan's positions that this opening covered, over all ranks.
        end_position: the position after the last.
        counts: the rank's rows.
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
    """What statistics show of a plan after its arrays are gone."""

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

    @classmethod
    def of(cls, plan: EpochPlan) -> PlanSummary:
        """The summary of a plan."""
        return cls(**{name: getattr(plan, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLine:
    """What is remembered of every epoch's plan.

    Args:
        kept: samples that it trains.
        pruned: samples that it leaves out.
        threshold: of its classes; None where it has none.
        unpruned: nothing was to be pruned.
    """

    kept: int
    pruned: int
    threshold: float | None
    unpruned: bool

    @classmethod
    def of(cls, plan: EpochPlan) -> PlanLine:
        """The line of a plan."""
        return cls(kept=plan.kept, pruned=plan.pruned, threshold=plan.threshold, unpruned=plan.unpruned)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run at one moment; immutable, so that a transaction is one replacement.

    Args:
        generation: of the newest attachment; 0 before the first.
        lease: who attached last; None before the first.
        detached: every rank of that job has said that it ended.
        start_epoch: where the present generation began: the plans after it wait for marks.
        last_epoch: the newest epoch that was opened; -1 before the first.
        trained: an epoch ended with positions > 0, or a score was stored before the newest attachment.
        unpruned: epochs that a job trains unpruned, whatever plan was drawn.
        plan_ids: ids of the plans that are kept, by epoch.
        newest_plan: what the newest plan was.
        drawn: the plans that were drawn, by epoch; one of an epoch in `unpruned` was not trained.
        ended: samples trained, by epoch that every rank has ended.
        barrier_timeouts: plans that were drawn before every rank had ended the epoch before.
        unusual_low_classes: plans whose low class was outside [0.2, 0.95] of the scored samples.
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
    barrier_timeouts: int = 0
    unusual_low_classes: int = 0
