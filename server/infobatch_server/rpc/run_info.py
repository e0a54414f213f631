"""A run's snapshot as the message of GetRun and ListRuns."""

from __future__ import annotations

from infobatch_server.runs.snapshot import RunSnapshot
from infobatch_server.state.run_state import PlanSummary
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.groups import plan_group_message
from infobatch_stream.wire.specs import plan_class_message, spec_message

__all__ = ["info_message"]


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
        dropped_samples=now.dropped_samples,
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
    stats.groups.extend(plan_group_message(group) for group in plan.groups)
    return stats
