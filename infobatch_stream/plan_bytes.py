"""A plan as bytes: its chunks and digest, and the file that a node's processes map.

Samples travel in chunks of 2²³; each chunk has one plane of keep bits and, where there is more than one class, a
plane that tells the classes apart: bits for two classes, bytes for more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import PlanError
from infobatch_stream.order_params import OrderParams
from infobatch_stream.plan import EpochPlan, PlanClass

__all__ = ["CHUNK_SAMPLES", "chunk_count", "chunk_planes", "plan_digest", "plan_from_buffer", "plan_to_bytes"]

CHUNK_SAMPLES = 2**23

_MAGIC = b"IBPLAN\x00\x01"
_ALIGN = 64


def chunk_count(num_samples: int) -> int:
    """Chunks of a plan over N samples."""
    return -(-num_samples // CHUNK_SAMPLES)


def chunk_planes(plan: EpochPlan, chunk: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The planes of a chunk: keep bits, then class bits or codes where the plan has them, as views."""
    bits = slice(chunk * CHUNK_SAMPLES // 8, (chunk + 1) * CHUNK_SAMPLES // 8)
    yield plan.keep_bits[bits]
    if plan.class_plane is None:
        return
    whole = slice(chunk * CHUNK_SAMPLES, (chunk + 1) * CHUNK_SAMPLES)
    yield plan.class_plane[bits if len(plan.classes) == 2 else whole]


def plan_digest(header: bytes, plan: EpochPlan) -> bytes:
    """SHA-256 over the header, the SHA-256 of the kept counts and that of every chunk.

    Args:
        header: the serialised header, its id and digest empty.
        plan: whose counts (int64 little-endian) and planes are hashed.
    """
    whole = hashlib.sha256(header)
    whole.update(hashlib.sha256(plan.shard_kept.astype("<i8", copy=False).tobytes()).digest())
    for chunk in range(chunk_count(plan.num_samples)):
        part = hashlib.sha256()
        for plane in chunk_planes(plan, chunk):
            part.update(_raw(plane))
        whole.update(part.digest())
    return whole.digest()


def plan_to_bytes(plan: EpochPlan) -> Iterator[bytes | memoryview]:
    """The plan's file, piece by piece: magic, header length, JSON header, then each array on a 64-byte boundary."""
    arrays = [("keep_bits", plan.keep_bits), ("shard_kept", plan.shard_kept.astype("<i8", copy=False))]
    if plan.class_plane is not None:
        arrays.append(("class_plane", plan.class_plane))
    fields = {
        name: getattr(plan, name)
        for name in plan.__dataclass_fields__
        if name not in ("run_id", "classes", "order", "keep_bits", "class_plane", "shard_kept")
    }
    fields |= {
        "run_id": plan.run_id.hex(),
        "classes": [asdict(row) for row in plan.classes],
        "order": asdict(plan.order),
        "arrays": [[name, len(values), values.dtype.str] for name, values in arrays],
    }
    header = json.dumps(fields).encode()
    head = _MAGIC + len(header).to_bytes(8, "little") + header
    yield head + bytes(-len(head) % _ALIGN)
    for _, values in arrays:
        yield _raw(values)
        yield bytes(-values.nbytes % _ALIGN)


def plan_from_buffer(buffer: bytes | memoryview) -> EpochPlan:
    """The plan in a file's bytes; its arrays are views of `buffer`.

    Raises:
        PlanError: not a plan file, of another version, or cut short.
    """
    view = memoryview(buffer)
    if bytes(view[: len(_MAGIC)]) != _MAGIC:
        raise PlanError("this is no plan file of this version; delete it, and it is fetched again")
    size = int.from_bytes(view[len(_MAGIC) : len(_MAGIC) + 8], "little")
    start = len(_MAGIC) + 8
    try:
        fields = json.loads(bytes(view[start : start + size]))
        place = start + size + -(start + size) % _ALIGN
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, count, dtype in fields.pop("arrays"):
            arrays[name] = np.frombuffer(view, np.dtype(dtype), count, place)
            place += arrays[name].nbytes + -arrays[name].nbytes % _ALIGN
        classes = tuple(PlanClass(**row) for row in fields.pop("classes"))
        order, run_id = OrderParams(**fields.pop("order")), bytes.fromhex(fields.pop("run_id"))
        return EpochPlan(
            **fields,
            run_id=run_id,
            classes=classes,
            order=order,
            keep_bits=arrays["keep_bits"],
            class_plane=arrays.get("class_plane"),
            shard_kept=arrays["shard_kept"],
        )
    except (KeyError, ValueError, TypeError) as error:
        raise PlanError(f"the plan file is damaged ({error}); delete it, and it is fetched again") from error


def _raw(values: npt.NDArray[Any]) -> memoryview:
    return memoryview(np.ascontiguousarray(values).data).cast("B")
