"""A plan as bytes: its chunks and digest, and the file that a node's processes map.

Samples travel in chunks of 2²³; each chunk has one plane of keep bits and, with more than one class, a
plane that tells the classes apart: bits for two classes, bytes for more.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import PlanError
from infobatch_stream.plan.epoch_plan import EpochPlan, PlanClass, PlanGroup, check_arrays, plane_bytes
from infobatch_stream.plan.order_params import OrderParams

__all__ = [
    "CHUNK_SAMPLES",
    "chunk_count",
    "chunk_planes",
    "plan_digest",
    "plan_from_buffer",
    "plan_to_bytes",
]

CHUNK_SAMPLES = 2**23

_MAGIC = b"IBPLAN\x00\x01"
_ALIGN = 64
_PLAIN: dict[Any, tuple[type, ...]] = {  # by annotation
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "float": (float,),
    "int | None": (int, type(None)),
    "float | None": (float, type(None)),
}


def chunk_count(num_samples: int) -> int:
    """Chunks of a plan over N samples."""
    return -(-num_samples // CHUNK_SAMPLES)


def chunk_planes(plan: EpochPlan, chunk: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The planes of a chunk: keep bits, then class bits or codes if the plan has them, as views."""
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
    own = {field.name: getattr(plan, field.name) for field in fields(plan) if field.type in _PLAIN}
    header = {
        **own,
        "run_id": plan.run_id.hex(),
        "classes": [asdict(row) for row in plan.classes],
        "groups": [asdict(group) for group in plan.groups],
        "order": asdict(plan.order),
        "shards": len(plan.shard_kept),
    }
    text = json.dumps(header).encode()
    head = _MAGIC + len(text).to_bytes(8, "little") + text
    yield head + bytes(-len(head) % _ALIGN)
    for values in (plan.keep_bits, plan.shard_kept.astype("<i8", copy=False), plan.class_plane):
        if values is not None:
            yield _raw(values)
            yield bytes(-values.nbytes % _ALIGN)


def plan_from_buffer(buffer: bytes | memoryview) -> EpochPlan:
    """The plan in a file's bytes; its arrays are views of `buffer`.

    The file is intact iff `infobatch_stream.wire.specs.seal` gives this plan its own id.

    Raises:
        PlanError: not a plan file, of another version, cut short, or with an invalid header.
    """
    view = memoryview(buffer)
    if bytes(view[: len(_MAGIC)]) != _MAGIC:
        raise PlanError("this is no plan file of this version; delete it, and it is fetched again")
    size = int.from_bytes(view[len(_MAGIC) : len(_MAGIC) + 8], "little")
    start = len(_MAGIC) + 8
    try:
        header = json.loads(bytes(view[start : start + size]))
        return _plan(header, view[start + size + -(start + size) % _ALIGN :])
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise PlanError(f"the plan file is damaged ({error}); delete it, and it is fetched again") from error


def _plan(header: dict[str, Any], data: memoryview) -> EpochPlan:
    classes = tuple(PlanClass(**_checked(PlanClass, row)) for row in header.pop("classes"))
    groups = tuple(PlanGroup(**_checked(PlanGroup, group)) for group in header.pop("groups"))
    order = OrderParams(**_checked(OrderParams, header.pop("order")))
    run_id, num_shards = bytes.fromhex(header.pop("run_id")), header.pop("shards")
    num_samples = _checked(EpochPlan, header)["num_samples"]
    arrays, place = [], 0
    for count, dtype in [
        (-(-num_samples // 8), "u1"),
        (num_shards, "<i8"),
        (plane_bytes(num_samples, len(classes)), "u1"),
    ]:
        arrays.append(np.frombuffer(data[place:], np.dtype(dtype), count) if count else None)
        place += count * np.dtype(dtype).itemsize
        place += -place % _ALIGN
    keep_bits, shard_kept, class_plane = arrays
    if keep_bits is None or shard_kept is None or len(run_id) != 16:
        raise ValueError("no sample, shard or run")
    plan = EpochPlan(
        **header,
        run_id=run_id,
        classes=classes,
        groups=groups,
        order=order,
        keep_bits=keep_bits,
        class_plane=class_plane,
        shard_kept=shard_kept,
    )
    check_arrays(plan, num_shards)
    return plan


def _checked(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """`values`, whose plain fields have the types that the dataclass says and values that the wire can carry."""
    for field in fields(kind):
        if field.type not in _PLAIN:
            continue
        value = values[field.name]
        if type(value) not in _PLAIN[field.type]:
            raise TypeError(f"{field.name}={value!r} is no {field.type}")
        if type(value) is int and not 0 <= value < 2**64:
            raise ValueError(f"{field.name}={value} is outside [0, 2**64)")
        if type(value) is float and struct.unpack("<f", struct.pack("<f", value)) != (value,):
            raise ValueError(f"{field.name}={value!r} is no float32")
    return values


def _raw(values: npt.NDArray[Any]) -> memoryview:
    return memoryview(np.ascontiguousarray(values).data).cast("B")
