"""A plan as the messages of GetEpochPlan; PlanReader is the way back."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.plan.bytes import CHUNK_SAMPLES, chunk_count, chunk_planes, plan_digest
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.specs import plan_header

__all__ = ["plan_messages"]

_PART_BYTES = 2**20


def plan_messages(
    plan: EpochPlan,
    shard_sizes: npt.NDArray[np.int64],
    *,
    from_chunk: int = 0,
    shards: tuple[int, int] | None = None,
) -> Iterator[pb.GetEpochPlanResponse]:
    """Header, kept counts of all shards, then planes in parts of at most 1 MiB.

    Args:
        plan: sealed, or unpruned.
        shard_sizes: int64 (S,), the run's.
        from_chunk: the first chunk to send.
        shards: [first, end): only chunks with samples of these; None for all.

    Raises:
        ConfigError: chunks or shards outside the plan.
    """
    first, stop = _chunks(plan, shard_sizes, shards)
    if from_chunk > chunk_count(plan.num_samples):
        raise ConfigError(f"from_chunk={from_chunk}: the plan has {chunk_count(plan.num_samples)} chunks")
    yield pb.GetEpochPlanResponse(header=_header(plan))
    kept = plan.shard_kept.astype("<i8", copy=False)
    for shard in range(0, len(kept), _PART_BYTES // 8):
        part = kept[shard : shard + _PART_BYTES // 8].tobytes()
        yield pb.GetEpochPlanResponse(shard_kept=pb.ShardKept(first_shard=shard, kept=part))
    planes = _plane_names(len(plan.classes))
    for chunk in range(max(first, from_chunk), stop):
        for plane, values in zip(planes, chunk_planes(plan, chunk), strict=True):
            for offset in range(0, len(values), _PART_BYTES):
                data = values[offset : offset + _PART_BYTES].tobytes()
                yield pb.GetEpochPlanResponse(
                    chunk=pb.PlanChunk(chunk=chunk, plane=plane, offset_bytes=offset, data=data, crc32=zlib.crc32(data))
                )


def _header(plan: EpochPlan) -> pb.PlanHeader:
    header = plan_header(plan)
    if not header.digest:
        # The id of an unpruned plan is its run and epoch; its digest is computed like any other.
        unnamed = plan_header(replace(plan, plan_id=""))
        header.digest = plan_digest(unnamed.SerializeToString(deterministic=True), plan)
    return header


def _chunks(plan: EpochPlan, shard_sizes: npt.NDArray[np.int64], shards: tuple[int, int] | None) -> tuple[int, int]:
    """[first, stop) of the chunks that hold samples of some shards."""
    if shards is None:
        return 0, chunk_count(plan.num_samples)
    first_shard, end_shard = shards
    if not 0 <= first_shard <= end_shard <= len(shard_sizes):
        raise ConfigError(f"shards [{first_shard}, {end_shard}) are outside [0, {len(shard_sizes)}]")
    first = int(shard_sizes[:first_shard].sum())
    stop = first + int(shard_sizes[first_shard:end_shard].sum())
    return first // CHUNK_SAMPLES, -(-stop // CHUNK_SAMPLES) if stop > first else first // CHUNK_SAMPLES


def _plane_names(num_classes: int) -> list[pb.Plane]:
    if num_classes == 1:
        return [pb.PLANE_KEEP_BITS]
    return [pb.PLANE_KEEP_BITS, pb.PLANE_CLASS_BITS if num_classes == 2 else pb.PLANE_CLASS_CODES]
