"""Puts a plan together from its messages and rejects one that is damaged: the one reader of servers and clients."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError, PlanError
from infobatch_stream.plan.bytes import CHUNK_SAMPLES
from infobatch_stream.plan.epoch_plan import EpochPlan, full_plan_id, kept_by_shard
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.specs import plan_from_header, seal

__all__ = ["PlanReader"]

_MAX_CLASSES = 256
_MAX_CLASS_NAME = 128
_AGAIN = "transfer the plan again"
_VERSIONS = "use a server and a client of the same version"


class PlanReader:
    """Collects the messages of one plan, in any order after its header.

    Every message is checked before it is used, so that a damaged or hostile stream costs no more memory than the
    run's own plan. Not safe to call from several threads.

    Args:
        spec: of the run that the plan is for; its numbers of samples and shards bound every array.

    Example:
        >>> reader = PlanReader(spec)
        >>> for message in messages:
        ...     reader.add(message)
        >>> plan = reader.plan()
    """

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._header: pb.PlanHeader | None = None
        self._shard_kept = np.zeros(0, np.int64)
        self._planes: dict[int, npt.NDArray[np.uint8]] = {}
        self._missing_bytes = 0

    @property
    def has_header(self) -> bool:
        """Whether a header has been added."""
        return self._header is not None

    def add(self, message: pb.GetEpochPlanResponse) -> None:
        """Adds the next message.

        Raises:
            PlanError: a message that is damaged, out of order, too long, or of a plan that doesn't fit the run.
        """
        part = message.WhichOneof("part")
        if part == "header":
            self._add_header(message.header)
        elif self._header is None:
            raise PlanError(f"a plan's first message must be its header, and this one has {part}; {_AGAIN}")
        elif part == "shard_kept":
            self._add_counts(self._header, message.shard_kept)
        elif part == "chunk":
            self._add_chunk(self._header, message.chunk)
        else:
            raise PlanError(f"a plan has no part {part!r}; {_VERSIONS}")

    def plan(self) -> EpochPlan:
        """The whole plan, checked.

        Raises:
            PlanError: bytes are missing, contradict each other, or don't give the id that the plan came with.
        """
        header = self._header
        if header is None:
            raise PlanError(f"the plan's stream has no header; {_AGAIN}")
        name = f"plan {header.plan_id!r}"
        if self._missing_bytes:
            raise PlanError(f"{name}: {self._missing_bytes} bytes did not come; {_AGAIN}")
        second = self._planes.get(pb.PLANE_CLASS_BITS, self._planes.get(pb.PLANE_CLASS_CODES))
        try:
            plan = plan_from_header(header, self._shard_kept, self._planes[pb.PLANE_KEEP_BITS], second)
        except (ConfigError, PlanError) as error:
            raise PlanError(f"{name}: {error}; {_AGAIN}") from error
        _check_id(plan, header)
        self._check_values(plan, name)
        if plan.kept != header.kept:
            raise PlanError(f"{name}: its header says {header.kept} kept samples, its classes {plan.kept}; {_AGAIN}")
        return plan

    def _check_values(self, plan: EpochPlan, name: str) -> None:
        codes = plan.class_plane
        if codes is not None and len(plan.classes) > 2 and int(codes.max()) >= len(plan.classes):
            raise PlanError(f"{name}: class code {int(codes.max())} of {len(plan.classes)} classes; {_AGAIN}")
        pad = -plan.num_samples % 8
        if pad and plan.keep_bits[-1] >> (8 - pad):
            raise PlanError(f"{name}: its pad bits are not zero; {_AGAIN}")
        if (plan.shard_kept > self._spec.shard_sizes).any():
            raise PlanError(f"{name} keeps more samples of a shard than there are; {_AGAIN}")
        if not np.array_equal(plan.shard_kept, kept_by_shard(plan.keep_bits, self._spec.shard_sizes)):
            raise PlanError(f"{name}: its kept counts by shard differ from the counts of its keep bits; {_AGAIN}")

    def _add_header(self, header: pb.PlanHeader) -> None:
        if self._header is not None:
            raise PlanError(f"a second header came, of plan {header.plan_id!r}; send one plan at a time")
        spec = self._spec
        if header.num_samples != spec.num_samples or header.num_shards != len(spec.shard_sizes):
            raise PlanError(
                f"the plan is of {header.num_samples} samples in {header.num_shards} shards, run {spec.run!r} has "
                f"{spec.num_samples} in {len(spec.shard_sizes)}; use a plan of this run"
            )
        if header.chunk_samples != CHUNK_SAMPLES:
            raise PlanError(
                f"the plan's chunks have {header.chunk_samples} samples, this version's {CHUNK_SAMPLES}; {_VERSIONS}"
            )
        if len(header.run_id) != 16 or not 1 <= len(header.classes) <= _MAX_CLASSES:
            raise PlanError(
                f"the plan's header has {len(header.classes)} classes and run id {header.run_id.hex()!r}; {_AGAIN}"
            )
        if any(len(row.name) > _MAX_CLASS_NAME for row in header.classes):
            raise PlanError(f"a class of the plan has a name of more than {_MAX_CLASS_NAME} characters; {_VERSIONS}")
        packed = -(-spec.num_samples // 8)
        self._planes[pb.PLANE_KEEP_BITS] = np.zeros(packed, np.uint8)
        if len(header.classes) == 2:
            self._planes[pb.PLANE_CLASS_BITS] = np.zeros(packed, np.uint8)
        elif len(header.classes) > 2:
            self._planes[pb.PLANE_CLASS_CODES] = np.zeros(spec.num_samples, np.uint8)
        self._shard_kept = np.zeros(len(spec.shard_sizes), np.int64)
        self._missing_bytes = sum(plane.nbytes for plane in self._planes.values()) + self._shard_kept.nbytes
        self._header = header

    def _add_counts(self, header: pb.PlanHeader, part: pb.ShardKept) -> None:
        if len(part.kept) % 8:
            raise PlanError(f"shard_kept has {len(part.kept)} bytes: int64 takes 8 each; {_AGAIN}")
        values = np.frombuffer(part.kept, "<i8")
        stop = part.first_shard + len(values)
        if stop > len(self._shard_kept):
            raise PlanError(
                f"shard_kept of shards [{part.first_shard}, {stop}): there are {len(self._shard_kept)}; {_AGAIN}"
            )
        self._shard_kept[part.first_shard : stop] = values
        self._count_bytes(header, len(part.kept))

    def _add_chunk(self, header: pb.PlanHeader, part: pb.PlanChunk) -> None:
        plane = self._planes.get(part.plane)
        if plane is None:
            raise PlanError(
                f"plan {header.plan_id!r} has a plane {part.plane}, its {len(header.classes)} classes need "
                f"{sorted(self._planes)}; {_VERSIONS}"
            )
        if zlib.crc32(part.data) != part.crc32:
            raise PlanError(f"chunk {part.chunk} of the plan came damaged at byte {part.offset_bytes}; {_AGAIN}")
        chunk_bytes = CHUNK_SAMPLES if part.plane == pb.PLANE_CLASS_CODES else CHUNK_SAMPLES // 8
        start = part.chunk * chunk_bytes + part.offset_bytes
        stop = start + len(part.data)
        if stop > min(len(plane), (part.chunk + 1) * chunk_bytes):
            raise PlanError(f"chunk {part.chunk} of the plan ends at byte {stop}; its plane has {len(plane)}; {_AGAIN}")
        plane[start:stop] = np.frombuffer(part.data, np.uint8)
        self._count_bytes(header, len(part.data))

    def _count_bytes(self, header: pb.PlanHeader, num_bytes: int) -> None:
        self._missing_bytes -= num_bytes
        if self._missing_bytes < 0:
            raise PlanError(f"plan {header.plan_id!r}: some of its bytes came twice; {_AGAIN}")


def _check_id(plan: EpochPlan, header: pb.PlanHeader) -> None:
    """The bytes must give the digest; an unpruned plan (generation 0) is named by run and epoch instead."""
    sealed_id = seal(plan).plan_id
    expected = full_plan_id(plan.run_id, plan.epoch) if plan.generation == 0 else sealed_id
    if plan.plan_id != expected:
        raise PlanError(f"plan {plan.plan_id!r}: its bytes give the id {expected!r}; {_AGAIN}")
    if not sealed_id.endswith(f"-{header.digest.hex()}"):
        raise PlanError(f"plan {plan.plan_id!r}: its bytes don't give its digest {header.digest.hex()!r}; {_AGAIN}")
