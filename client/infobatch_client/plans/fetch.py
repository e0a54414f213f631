"""Where epoch plans come from: the server, message by message, checked by digest."""

from __future__ import annotations

import time
import zlib

import numpy as np
import numpy.typing as npt

from infobatch_client.rpc.client import ScoreClient, retry_until
from infobatch_stream.errors import PlanError, PlanNotReadyError
from infobatch_stream.plan.bytes import CHUNK_SAMPLES
from infobatch_stream.plan.epoch_plan import EpochPlan, full_plan_id
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.specs import plan_from_header, seal

__all__ = ["fetch_plan"]


def fetch_plan(
    client: ScoreClient, *, run_id: bytes, generation: int, epoch: int, plan_id: str, timeout_s: float
) -> EpochPlan:
    """The plan of an epoch, waiting for the barrier before it.

    Args:
        client: the server's rpcs.
        run_id: 16 bytes.
        generation: the attached one.
        epoch: the epoch.
        plan_id: this plan and no other; "" takes the epoch's.
        timeout_s: for the barrier and an outage together.

    Raises:
        PlanNotReadyError: other ranks have not ended the epoch before in that time.
        ServerUnreachableError, ServerBusyError: no answer in that time.
        PlanError: the bytes don't give the id that they came with.
    """
    deadline = time.monotonic() + timeout_s
    request = pb.GetEpochPlanRequest(run_id=run_id, generation=generation, epoch=epoch, plan_id=plan_id)
    while True:
        answer = retry_until(lambda left: _receive(client, request, left), deadline - time.monotonic())
        if isinstance(answer, EpochPlan):
            return answer
        if time.monotonic() >= deadline:
            raise PlanNotReadyError(
                f"{client.address} has no plan of epoch {epoch} yet: ranks {list(answer.missing_ranks)} have not ended "
                "the epoch before"
            )
        time.sleep(max(0.01, min(answer.retry_after_ms / 1000, deadline - time.monotonic())))


def _receive(client: ScoreClient, request: pb.GetEpochPlanRequest, timeout_s: float) -> EpochPlan | pb.NotReady:
    assembly: _Assembly | None = None
    for message in client.stream("GetEpochPlan", request, timeout_s=timeout_s):
        kind = message.WhichOneof("part")
        if kind == "not_ready":
            answer: pb.NotReady = message.not_ready
            return answer
        if kind == "header":
            assembly = _Assembly(message.header)
        elif assembly is None:
            raise PlanError("the plan's stream doesn't begin with its header")
        elif kind == "shard_kept":
            assembly.add_counts(message.shard_kept)
        elif kind == "chunk":
            assembly.add_chunk(message.chunk)
    if assembly is None:
        raise PlanError("the plan's stream is empty")
    return assembly.finish()


class _Assembly:
    """A plan while its messages arrive."""

    def __init__(self, header: pb.PlanHeader) -> None:
        if header.chunk_samples != CHUNK_SAMPLES:
            raise PlanError(f"the plan comes in chunks of {header.chunk_samples} samples; this client knows 2**23")
        self._header = header
        self._counts = np.zeros(header.num_shards, np.int64)
        bits, classes = -(-header.num_samples // 8), len(header.classes)
        self._planes: dict[int, npt.NDArray[np.uint8]] = {pb.PLANE_KEEP_BITS: np.zeros(bits, np.uint8)}
        if classes == 2:
            self._planes[pb.PLANE_CLASS_BITS] = np.zeros(bits, np.uint8)
        elif classes > 2:
            self._planes[pb.PLANE_CLASS_CODES] = np.zeros(header.num_samples, np.uint8)

    def add_counts(self, part: pb.ShardKept) -> None:
        counts = np.frombuffer(part.kept, "<i8")
        self._counts[part.first_shard : part.first_shard + len(counts)] = counts

    def add_chunk(self, part: pb.PlanChunk) -> None:
        if zlib.crc32(part.data) != part.crc32:
            raise PlanError(f"chunk {part.chunk} of plan {self._header.plan_id} arrived damaged")
        if part.plane not in self._planes:
            raise PlanError(f"plan {self._header.plan_id} has a plane {part.plane} that its classes don't call for")
        per_sample = 1 if part.plane == pb.PLANE_CLASS_CODES else 8
        start = part.chunk * CHUNK_SAMPLES // per_sample + part.offset_bytes
        self._planes[part.plane][start : start + len(part.data)] = np.frombuffer(part.data, np.uint8)

    def finish(self) -> EpochPlan:
        class_plane = self._planes.get(pb.PLANE_CLASS_BITS, self._planes.get(pb.PLANE_CLASS_CODES))
        plan = plan_from_header(self._header, self._counts, self._planes[pb.PLANE_KEEP_BITS], class_plane)
        made = seal(plan).plan_id
        named = full_plan_id(plan.run_id, plan.epoch) if plan.generation == 0 else made
        if named != plan.plan_id or not made.endswith(self._header.digest.hex()):
            raise PlanError(f"the plan's bytes give the id {made}, it came as {plan.plan_id}")
        return plan
