"""What a run shows of itself: one snapshot of one moment, for GetRun and for REST."""

from __future__ import annotations

from dataclasses import dataclass

from infobatch_server.run import Run
from infobatch_server.run_state import Lease, PlanSummary, RunState
from infobatch_stream.codec import plan_class_message, spec_message
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["RunSnapshot", "info_message", "snapshot"]


@dataclass(frozen=True, kw_only=True)
class RunSnapshot:
    """A run at one moment.

    Args:
        run_id: 16 bytes.
        spec: what it is.
        state: of the last transaction.
        lease: the job that holds it now; None where none does.
        stored_scores: accepted since the run was created.
        rejected_scores: NaN and infinite ones since then.
        stale_scores: older than what the sample had, since the server started.
    """

    run_id: bytes
    spec: RunSpec
    state: RunState
    lease: Lease | None
    stored_scores: int
    rejected_scores: int
    stale_scores: int


def snapshot(run: Run) -> RunSnapshot:
    """The run as it is now."""
    core = run.core
    with core.turn:
        state = core.state
        return RunSnapshot(
            run_id=core.run_id,
            spec=core.spec,
            state=state,
            lease=state.lease if core.lease_left_s > 0 else None,
            stored_scores=core.feed.stored_scores,
            rejected_scores=core.feed.rejected_scores,
            stale_scores=core.feed.stale_scores,
        )


def info_message(now: RunSnapshot) -> pb.RunInfo:
    """A snapshot as a message."""
    state, lease = now.state, now.lease
    info = pb.RunInfo(
        run=now.spec.run,
        run_id=now.run_id,
        spec=spec_message(now.spec),
        generation=state.generation,
        last_epoch=state.last_epoch,
        trained=state.trained,
        rejected_scores=now.rejected_scores,
        stored_scores=now.stored_scores,
        barrier_timeouts=state.barrier_timeouts,
        plan_ids=[plan_id for _, plan_id in sorted(state.plan_ids.items())],
    )
    if lease is not None:
        info.job, info.host, info.pid = lease.job, lease.host, lease.pid
    if state.newest_plan is not None:
        info.newest_plan.CopyFrom(_plan_stats(state.newest_plan))
    return info


def _plan_stats(plan: PlanSummary) -> pb.PlanStats:
    stats = pb.PlanStats(
        plan_id=plan.plan_id,
        epoch=plan.epoch,
        generation=plan.generation,
        kept=plan.kept,
        pruned=plan.pruned,
        never_scored=plan.never_scored,
        biased=plan.biased,
        unpruned=plan.unpruned,
    )
    if plan.threshold is not None:
        stats.threshold = plan.threshold
    stats.classes.extend(plan_class_message(row) for row in plan.classes)
    return stats
