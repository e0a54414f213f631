"""Reads the stream of CreateRun: a spec, then shard sizes and a mask in parts, each checked before it is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.plan.order_params import ORDER_VERSION, OrderChoice
from infobatch_stream.run_spec import RunSpec, check_run_name
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.specs import order_choice, spec_from_messages

__all__ = ["read_spec", "upload_bytes"]

MAX_INT64 = 2**63 - 1
_MAX_SPEC_BYTES = 2**17


def upload_bytes(*, sizes: int = 0, groups: int = 0, mask: int = 0) -> int:
    """Bytes that so many received bytes of a spec's parts take: as they came, as arrays, and to be compared."""
    return 3 * sizes + 2 * groups + 10 * mask


def read_spec(
    messages: Iterator[pb.CreateRunRequest],
    *,
    max_samples: int = MAX_INT64,
    max_shards: int = MAX_INT64,
    account_for: Callable[[str], Callable[[int], None]] = lambda run: lambda num_bytes: None,
) -> tuple[RunSpec, OrderChoice]:
    """The spec in a stream, and the fields of the order that the user has set.

    Args:
        messages: the spec, then its parts.
        max_samples: the reader's limit on N.
        max_shards: the reader's limit on S.
        account_for: gives, for a run's name, what is called with the bytes of each part before they are kept.

    Raises:
        ConfigError: an invalid value, a part that is missing, out of order or too long, or a limit.
        ServerBusyError: a part doesn't fit into memory now.
    """
    first = next(messages, None)
    if first is None or first.WhichOneof("part") != "spec":
        raise ConfigError("the first message of CreateRun must have `spec`")
    message = first.spec
    _check_bounds(message, max_samples, max_shards)
    parts = _Parts(message, account_for(message.run))
    for later in messages:
        parts.add(later)
    sizes, bits, groups = parts.whole()
    subset = None
    if bits is not None:
        subset = np.unpackbits(bits, count=message.num_samples, bitorder="little").view(bool)
    return spec_from_messages(message, sizes, subset, groups), order_choice(message.order)


def _check_bounds(message: pb.RunSpec, max_samples: int, max_shards: int) -> None:
    check_run_name(message.run)
    if message.ByteSize() > _MAX_SPEC_BYTES:
        raise ConfigError(
            f"the spec of run {message.run!r} takes {message.ByteSize()} bytes, the limit is {_MAX_SPEC_BYTES}; use "
            "shorter settings of the policy"
        )
    if not 1 <= message.num_samples <= max_samples:
        raise ConfigError(f"num_samples={message.num_samples} is outside [1, {max_samples}], this server's limit")
    if not 1 <= message.num_shards <= max_shards:
        raise ConfigError(f"num_shards={message.num_shards} is outside [1, {max_shards}], this server's limit")
    if message.subset_samples > message.num_samples:
        raise ConfigError(f"subset_samples={message.subset_samples} is over num_samples={message.num_samples}")
    if message.order_version != ORDER_VERSION:
        raise ConfigError(
            f"order_version={message.order_version}: this server knows {ORDER_VERSION}; use versions that match"
        )


class _Parts:
    """Shard sizes and mask bits that come in parts, in order and without gaps, up to the announced sizes."""

    def __init__(self, spec: pb.RunSpec, charge: Callable[[int], None]) -> None:
        self._charge = charge
        self._num_shards = spec.num_shards
        self._num_samples = spec.num_samples
        self._mask_bytes = -(-spec.num_samples // 8) if spec.subset_samples else 0
        self._has_groups = bool(spec.group_names)
        self._sizes = bytearray()
        self._groups = bytearray()
        self._mask = bytearray()
        self._total = 0

    def add(self, message: pb.CreateRunRequest) -> None:
        part = message.WhichOneof("part")
        if part == "shard_sizes":
            self._add_sizes(message.shard_sizes)
        elif part == "mask":
            self._add_mask(message.mask)
        else:
            raise ConfigError("after `spec`, CreateRun takes `shard_sizes` and `mask`, each message with one of them")

    def whole(
        self,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8] | None, npt.NDArray[np.uint8] | None]:
        """Sizes int64 (S,), the mask's packed bits if the spec has one, and groups uint8 (S,) if it has some."""
        if len(self._sizes) != 8 * self._num_shards:
            raise ConfigError(f"sizes of {len(self._sizes) // 8} shards came, the spec says {self._num_shards}")
        if len(self._mask) != self._mask_bytes:
            raise ConfigError(f"{len(self._mask)} bytes of mask came, the spec needs {self._mask_bytes}")
        sizes = np.frombuffer(self._sizes, "<i8").astype(np.int64)
        groups = np.frombuffer(self._groups, np.uint8).copy() if self._has_groups else None
        return sizes, np.frombuffer(self._mask, np.uint8) if self._mask_bytes else None, groups

    def _add_sizes(self, part: pb.ShardSizes) -> None:
        seen, count = len(self._sizes) // 8, len(part.sizes) // 8
        if len(part.sizes) % 8:
            raise ConfigError(f"shard_sizes has {len(part.sizes)} bytes: int64 takes 8 each")
        if part.first_shard != seen:
            raise ConfigError(f"shard_sizes from shard {part.first_shard} came where {seen} is next")
        if seen + count > self._num_shards:
            raise ConfigError(f"sizes of {seen + count} shards came, the spec says {self._num_shards}")
        if len(part.groups) != count * self._has_groups:
            raise ConfigError(
                f"groups of {len(part.groups)} shards came with the sizes of {count}; the spec "
                f"{'has' if self._has_groups else 'has no'} groups"
            )
        sizes = np.frombuffer(part.sizes, "<i8")
        if count:
            low, high = int(sizes.min()), int(sizes.max())
            if low < 0:
                raise ConfigError(f"shard {seen + int(sizes.argmin())} has {low} samples")
            # With no size over N, the sum of one message's sizes is far from an overflow.
            if high > self._num_samples:
                raise ConfigError(
                    f"shard {seen + int(sizes.argmax())} has {high} samples, all have {self._num_samples}"
                )
            self._total += int(sizes.sum())
            if self._total > self._num_samples:
                raise ConfigError(f"{seen + count} shards have {self._total} samples, all have {self._num_samples}")
        self._charge(upload_bytes(sizes=len(part.sizes), groups=len(part.groups)))
        self._sizes += part.sizes
        self._groups += part.groups

    def _add_mask(self, part: pb.MaskBits) -> None:
        seen = len(self._mask)
        if part.first_sample != 8 * seen:
            raise ConfigError(f"mask from sample {part.first_sample} came where {8 * seen} is next")
        if seen + len(part.bits) > self._mask_bytes:
            raise ConfigError(f"{seen + len(part.bits)} bytes of mask came, the spec needs {self._mask_bytes}")
        self._charge(upload_bytes(mask=len(part.bits)))
        self._mask += part.bits
        pad = -self._num_samples % 8
        if pad and len(self._mask) == self._mask_bytes and self._mask[-1] >> (8 - pad):
            raise ConfigError("the mask's pad bits are not zero")
