"""Plans the reads of a block of samples: shard, first byte and size of each, before the first read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infobatch_client.reading.open_shards import OpenShard
from infobatch_client.reading.sample_loop import Failed, complete, sample_loop
from infobatch_client.shards.index import Layout, ShardIndex

_Member = tuple[str, int, int, "bytes | None"]
__all__ = ["MixedBlock", "UniformBlock", "plan_block"]

_HINT_BYTES = 128 * 1024  # the kernel shortens longer hints to its readahead limit
_COLD_SECONDS = 30e-6  # reading a byte takes 1 µs from the page cache, 60 µs from the fastest disk
_PROBES = 8
_MAX_GAP_BYTES = 64 * 1024  # a member that lies farther from the one before, such as a link's, is read by itself
_GROUPED_FROM = 24  # from this many samples per shard on, numpy by shard is faster than Python by sample


@dataclass(frozen=True)
class _Places:
    """The reads that cover the large members: shard, first byte, number of bytes; lists of equal length."""

    shards: list[OpenShard]
    firsts: list[int]
    sizes: list[int]

    def hint_if_cold(self) -> None:
        """Asks the kernel to read ahead if a few probes find bytes that aren't in the page cache."""
        if not hasattr(os, "posix_fadvise"):
            return  # macOS
        step = max(1, len(self.firsts) // _PROBES)
        rows = range(len(self.firsts) - 1, -1, -step)
        slow = 0
        for row in rows:
            start_s = time.perf_counter()
            try:
                os.pread(self.shards[row].fd, 1, self.firsts[row] + max(0, self.sizes[row] - 1))
            except OSError:
                return  # the read itself will raise the error
            slow += time.perf_counter() - start_s > _COLD_SECONDS
            if slow == min(2, len(rows)):  # the scheduler may cause a single slow probe
                self._hint()
                return

    def _hint(self) -> None:
        for shard, first, size in zip(self.shards, self.firsts, self.sizes, strict=True):
            for at in range(first, first + size, _HINT_BYTES):
                os.posix_fadvise(shard.fd, at, min(_HINT_BYTES, first + size - at), os.POSIX_FADV_WILLNEED)


@dataclass(frozen=True)
class UniformBlock:
    """Samples that all have the same members."""

    layout: Layout
    columns: list[list[Any]]
    places: _Places

    def samples(self, failed: Failed) -> Iterator[dict[str, Any]]:
        """Reads the samples in order and yields a dict for each."""
        return sample_loop(self.layout)(self.columns, failed)


@dataclass(frozen=True)
class MixedBlock:
    """Samples that have different members, or members that lie far from each other.

    Attributes:
        apart: whether a sample has large members outside of the read in `places`.
    """

    indices: list[int]
    weights: list[float]
    positions: list[int]
    members: list[list[_Member]]
    apart: list[bool]
    places: _Places

    def samples(self, failed: Failed) -> Iterator[dict[str, Any]]:
        """Reads the samples in order and yields a dict for each."""
        places = self.places
        for index, weight, position, members, is_apart, shard, first, size in zip(
            self.indices,
            self.weights,
            self.positions,
            self.members,
            self.apart,
            places.shards,
            places.firsts,
            places.sizes,
            strict=True,
        ):
            try:
                data = complete(b"", shard.fd, size, first)
                others = _read_others(members, shard.fd, first, size) if is_apart else {}
            except OSError as error:
                failed(index, error)
                continue
            if data is None or None in others.values():
                failed(index, None)
                continue
            sample: dict[str, Any] = {"__key__": shard.index.key(position), "__url__": shard.url}
            for extension, offset, length, inline in members:
                if inline is None:
                    inline = others.get(offset) or data[offset - first : offset - first + length]
                sample[extension] = inline
                if len(sample) == 3:
                    sample["__local_path__"] = shard.path
            sample["__index__"] = index
            sample["__weight__"] = weight
            yield sample


def plan_block(
    indices: NDArray[np.int64],
    weights: NDArray[np.float32],
    numbers: NDArray[np.int64],
    positions: NDArray[np.int64],
    shards: Mapping[int, OpenShard],
) -> UniformBlock | MixedBlock:
    """Plans the reads of a block.

    Args:
        indices: sample indices, int64 (n,), n > 0.
        weights: float32 (n,).
        numbers: the shard number of each sample, int64 (n,).
        positions: the sample's position in its shard, int64 (n,).
        shards: the shards with these numbers.
    """
    row_shards = [shards[number] for number in numbers.tolist()]
    layout = row_shards[0].index.head.layout
    if layout is None or any(shard.index.head.layout != layout for shard in shards.values()):
        return _plan_mixed(indices, weights, row_shards, positions.tolist())
    if len(shards) * _GROUPED_FROM <= len(row_shards):
        parts = _columns_by_shard(layout, numbers, positions, shards)
    else:
        parts = _columns_by_sample(layout, row_shards, positions.tolist())
    columns: list[list[Any]] = [indices.tolist(), weights.tolist(), parts[0], row_shards, *parts[1:]]
    first_column = 4 + sum(is_inline for _, is_inline in layout)
    extents = columns[first_column : first_column + 2] or [[], []]
    return UniformBlock(layout, columns, _Places(row_shards, extents[0], extents[1]))


def _columns_by_shard(
    layout: Layout, numbers: NDArray[np.int64], positions: NDArray[np.int64], shards: Mapping[int, OpenShard]
) -> list[list[Any]]:
    """Keys, inline members, first bytes, sizes, begins, ends: with numpy, shard by shard."""
    if len(shards) == 1:
        (shard,) = shards.values()
        objects, extents = _shard_columns(layout, shard.index, positions)
        return [*objects, *(extent.tolist() for extent in extents)]
    order = np.argsort(numbers, kind="stable")
    ends = np.flatnonzero(np.diff(numbers[order])) + 1
    columns: list[list[Any]] = []
    for rows in np.split(order, ends):
        objects, extents = _shard_columns(layout, shards[int(numbers[rows[0]])].index, positions[rows])
        columns.append([*objects, *(extent.tolist() for extent in extents)])
    joined = [list(chain.from_iterable(pieces)) for pieces in zip(*columns, strict=True)]
    if np.array_equal(order, np.arange(len(order))):
        return joined
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    original_rows = inverse.tolist()
    return [[column[row] for row in original_rows] for column in joined]


def _shard_columns(
    layout: Layout, index: ShardIndex, positions: NDArray[np.int64]
) -> tuple[list[list[Any]], list[NDArray[np.int64]]]:
    """The columns of samples of one shard: keys and inline members, then the integer columns."""
    first_members = positions * len(layout)
    objects: list[list[Any]] = [index.keys_of(positions)]
    begins, ends = [], []
    for member, (_, is_inline) in enumerate(layout):
        members = first_members + member
        if is_inline:
            objects.append(index.inline_of(members))
        else:
            begins.append(index.offsets[members])
            ends.append(begins[-1] + index.sizes[members])
    if not begins:
        return objects, []
    extents = [begins[0], ends[-1] - begins[0]]
    if len(begins) > 1:
        for begin, end in zip(begins, ends, strict=True):
            extents += [begin - begins[0], end - begins[0]]
    return objects, extents


def _columns_by_sample(layout: Layout, shards: list[OpenShard], positions: list[int]) -> list[list[Any]]:
    """The same as `_columns_by_shard`, for blocks with only a few samples per shard."""
    indices = [shard.index for shard in shards]
    views = [index.views for index in indices]
    columns: list[list[Any]] = [[index.key(at) for index, at in zip(indices, positions, strict=True)]]
    begins: list[list[int]] = []
    ends: list[list[int]] = []
    for number, (_, is_inline) in enumerate(layout):
        members = [at * len(layout) + number for at in positions]
        if is_inline:
            columns.append(
                [
                    index.inline_bytes[view.inline_bounds[member] : view.inline_bounds[member + 1]]
                    for index, view, member in zip(indices, views, members, strict=True)
                ]
            )
        else:
            begins.append([view.offsets[member] for view, member in zip(views, members, strict=True)])
            sizes = [view.sizes[member] for view, member in zip(views, members, strict=True)]
            ends.append([begin + size for begin, size in zip(begins[-1], sizes, strict=True)])
    if not begins:
        return columns
    firsts = begins[0]
    columns += [firsts, [end - first for first, end in zip(firsts, ends[-1], strict=True)]]
    if len(begins) > 1:
        for begin_column, end_column in zip(begins, ends, strict=True):
            columns.append([begin - first for first, begin in zip(firsts, begin_column, strict=True)])
            columns.append([end - first for first, end in zip(firsts, end_column, strict=True)])
    return columns


def _plan_mixed(
    indices: NDArray[np.int64], weights: NDArray[np.float32], shards: list[OpenShard], positions: list[int]
) -> MixedBlock:
    members = [shard.index.members(at) for shard, at in zip(shards, positions, strict=True)]
    firsts, sizes, apart = [], [], []
    for sample_members in members:
        first, size, is_apart = _main_read(sample_members)
        firsts.append(first)
        sizes.append(size)
        apart.append(is_apart)
    return MixedBlock(indices.tolist(), weights.tolist(), positions, members, apart, _Places(shards, firsts, sizes))


def _main_read(members: list[_Member]) -> tuple[int, int, bool]:
    """First byte and size of the read of the first large member and those close behind it; whether there are others."""
    first = end = 0
    is_apart = False
    for _, offset, size, inline in members:
        if inline is not None:
            continue
        if not end:
            first, end = offset, offset + size
        elif end <= offset <= end + _MAX_GAP_BYTES:
            end = offset + size
        else:
            is_apart = True
    return first, end - first, is_apart


def _read_others(members: list[_Member], fd: int, first: int, size: int) -> dict[int, bytes | None]:
    """Reads the large members outside of the main read; by offset, None if the file ends before."""
    others: dict[int, bytes | None] = {}
    for _, offset, length, inline in members:
        if inline is None and not first <= offset <= first + size - length:
            others[offset] = complete(b"", fd, length, offset)
    return others
