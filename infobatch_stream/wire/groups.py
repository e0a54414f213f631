"""Groups of shards, in a spec and in a plan, as messages."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.plan.epoch_plan import PlanGroup
from infobatch_stream.pruning.groups import Groups
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["groups_from_message", "plan_group", "plan_group_message"]


def groups_from_message(
    message: pb.RunSpec, shard_sizes: npt.NDArray[np.int64], of_shard: npt.NDArray[np.uint8] | None
) -> Groups | None:
    """The groups that a spec's message names, with those of the shards, uint8 (S,), that came in parts.

    Raises:
        ConfigError: they contradict each other, or are invalid.
    """
    if (of_shard is None) != (not message.group_names):
        came = "no" if of_shard is None else len(of_shard)
        raise ConfigError(f"the spec names {len(message.group_names)} groups, but groups of {came} shards came")
    groups = None if of_shard is None else Groups(tuple(message.group_names), of_shard, shard_sizes)
    if message.groups_sha256 != (b"" if groups is None else groups.sha256):
        raise ConfigError(f"groups_sha256={message.groups_sha256.hex()}, but the shards' groups give another")
    return groups


def plan_group_message(group: PlanGroup) -> pb.PlanGroup:
    """A group of a plan as a message."""
    return pb.PlanGroup(
        name=group.name,
        samples=group.samples,
        scored=group.scored,
        kept=group.kept,
        threshold=group.threshold,
        low_share=group.low_share,
        mean_score=group.mean_score,
    )


def plan_group(group: pb.PlanGroup) -> PlanGroup:
    """A group of a plan, of its message."""
    return PlanGroup(
        name=group.name,
        samples=group.samples,
        scored=group.scored,
        kept=group.kept,
        threshold=group.threshold if group.HasField("threshold") else None,
        low_share=group.low_share if group.HasField("low_share") else None,
        mean_score=group.mean_score if group.HasField("mean_score") else None,
    )
