"""Puts a plan together from its messages, and refuses one whose bytes don't match its name."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError, PlanError
from infobatch_stream.plan.bytes import CHUNK_SAMPLES
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.specs import plan_from_header, seal

__all__ = ["PlanReader"]

_MAX_CLASSES = 256


class PlanReader:
    """Collects the messages of one plan, in any order after its header.

    Args:
        spec: the run that the plan is for; nothing larger than it takes is allocated.
    """

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._header: pb.PlanHeader | None = None
        self._shard_kept = np.zeros(0, np.int64)
        self._planes: dict[int, npt.NDArray[np.uint8]] = {}
        self._missing_bytes = 0

    @property
    def begun(self) -> bool:
        """Whether a header came."""
        return self._header is not None

    def add(self, message: pb.GetEpochPlanResponse) -> None:
        """Takes the next message.

        Raises:
            ConfigError: a message out of turn, or of a plan that isn't this run's.
            PlanError: bytes that don't match their checksum.
        """
        part = message.WhichOneof("part")
        if part == "header":
            self._begin(message.header)
        elif self._header is None:
            raise ConfigError("a plan's first message must be its header")
        elif part == "shard_kept":
            self._add_kept(message.shard_kept)
        elif part == "chunk":
            self._add_chunk(message.chunk)
        else:
            raise ConfigError(f"a plan has no part {part!r}")

    def plan(self) -> EpochPlan:
        """The plan, whole and checked.

        Raises:
            PlanError: bytes are missing, or don't give the id that the plan came with.
        """
        assert self._header is not None
        if self._missing_bytes:
            raise PlanError(f"plan {self._header.plan_id!r}: {self._missing_bytes} bytes did not come")
        classes = len(self._header.classes)
        second = self._planes.get(pb.PLANE_CLASS_BITS if classes == 2 else pb.PLANE_CLASS_CODES)
        plan = plan_from_header(self._header, self._shard_kept, self._planes[pb.PLANE_KEEP_BITS], second)
        if seal(plan).plan_id != plan.plan_id:
            raise PlanError(f"plan {plan.plan_id!r}: its bytes give the id {seal(plan).plan_id!r}; send it again")
        if plan.class_plane is not None and classes > 2 and int(plan.class_plane.max()) >= classes:
            raise PlanError(f"plan {plan.plan_id!r}: class code {int(plan.class_plane.max())} of {classes} classes")
        if (plan.shard_kept < 0).any() or (plan.shard_kept > self._spec.shard_sizes).any():
            raise PlanError(f"plan {plan.plan_id!r} keeps more samples of a shard than there are")
        pad = -plan.num_samples % 8
        if pad and plan.keep_bits[-1] >> (8 - pad):
            raise PlanError(f"plan {plan.plan_id!r}: its pad bits are not zero")
        bits = sum(int(np.unpackbits(part).sum()) for part in np.array_split(plan.keep_bits, _pieces(plan.keep_bits)))
        if not bits == int(plan.shard_kept.sum()) == plan.kept == self._header.kept:
            raise PlanError(f"plan {plan.plan_id!r}: its kept samples are {bits} by bit and {plan.kept} by class")
        return plan

    def _begin(self, header: pb.PlanHeader) -> None:
        if self._header is not None:
            raise ConfigError("one plan may be seeded at a time")
        spec = self._spec
        if header.num_samples != spec.num_samples or header.num_shards != len(spec.shard_sizes):
            raise ConfigError(
                f"the plan is of {header.num_samples} samples in {header.num_shards} shards, run {spec.run!r} has "
                f"{spec.num_samples} in {len(spec.shard_sizes)}"
            )
        if header.chunk_samples != CHUNK_SAMPLES:
            raise ConfigError(f"the plan's chunks have {header.chunk_samples} samples, this server's {CHUNK_SAMPLES}")
        if len(header.run_id) != 16 or not 1 <= len(header.classes) <= _MAX_CLASSES:
            raise ConfigError(f"the plan's header has {len(header.classes)} classes, run id {header.run_id.hex()!r}")
        self._header = header
        packed = -(-spec.num_samples // 8)
        self._planes[pb.PLANE_KEEP_BITS] = np.zeros(packed, np.uint8)
        if len(header.classes) == 2:
            self._planes[pb.PLANE_CLASS_BITS] = np.zeros(packed, np.uint8)
        elif len(header.classes) > 2:
            self._planes[pb.PLANE_CLASS_CODES] = np.zeros(spec.num_samples, np.uint8)
        self._shard_kept = np.zeros(len(spec.shard_sizes), np.int64)
        self._missing_bytes = sum(plane.nbytes for plane in self._planes.values()) + self._shard_kept.nbytes

    def _add_kept(self, part: pb.ShardKept) -> None:
        if len(part.kept) % 8:
            raise ConfigError(f"shard_kept has {len(part.kept)} bytes: int64 takes 8 each")
        values = np.frombuffer(part.kept, "<i8")
        stop = part.first_shard + len(values)
        if stop > len(self._shard_kept):
            raise ConfigError(f"shard_kept of shards [{part.first_shard}, {stop}): there are {len(self._shard_kept)}")
        self._shard_kept[part.first_shard : stop] = values
        self._missing_bytes -= len(part.kept)

    def _add_chunk(self, part: pb.PlanChunk) -> None:
        plane = self._planes.get(part.plane)
        if plane is None:
            raise ConfigError(f"server too old, or a damaged plan: plane {part.plane} is none of {list(self._planes)}")
        if zlib.crc32(part.data) != part.crc32:
            raise PlanError(f"chunk {part.chunk} of the plan came damaged at byte {part.offset_bytes}; send it again")
        by_chunk = CHUNK_SAMPLES if part.plane == pb.PLANE_CLASS_CODES else CHUNK_SAMPLES // 8
        start = part.chunk * by_chunk + part.offset_bytes
        stop = start + len(part.data)
        if stop > min(len(plane), (part.chunk + 1) * by_chunk):
            raise ConfigError(f"chunk {part.chunk} of the plan ends at byte {stop}; its plane has {len(plane)}")
        plane[start:stop] = np.frombuffer(part.data, np.uint8)
        self._missing_bytes -= len(part.data)


def _pieces(values: npt.NDArray[np.uint8]) -> int:
    return max(1, len(values) >> 20)
