"""A block of samples about to be read: which bytes of which shards, worked out before the first read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from infobatch_client.open_shards import OpenShard
from infobatch_client.sample_loop import Failed, complete, sample_loop
from infobatch_client.shard_index import Layout, ShardIndex
from numpy.typing import NDArray

__all__ = ["MixedBlock", "UniformBlock", "plan_block"]

_HINT_BYTES = 128 * 1024  # the kernel cuts a longer hint to its readahead limit
_COLD_SECONDS = 30e-6  # a byte from the page cache takes 1 µs, the fastest disk 60
_PROBES = 4
_GROUPED_FROM = 8  # samples per shard from which numpy over each shard beats Python over each sample


@dataclass(frozen=True)
class _Places:
    """Reads that cover the large members: descriptor, first byte, number of bytes; lists of one length."""

    fds: list[int]
    firsts: list[int]
    sizes: list[int]

    def hint_if_cold(self) -> None:
        """Asks the kernel to read ahead what isn't in its page cache, if a few probes say that some isn't."""
        if not self.fds:
            return
        step = max(1, len(self.fds) // _PROBES)
        for row in range(len(self.fds) - 1, -1, -step):
            begun = time.perf_counter()
            try:
                os.pread(self.fds[row], 1, self.firsts[row] + self.sizes[row] - 1)
            except OSError:
                return  # the read itself will say what is wrong
            if time.perf_counter() - begun > _COLD_SECONDS:
                self._hint()
                return

    def _hint(self) -> None:
        for fd, first, size in zip(self.fds, self.firsts, self.sizes, strict=True):
            for at in range(first, first + size, _HINT_BYTES):
                os.posix_fadvise(fd, at, min(_HINT_BYTES, first + size - at), os.POSIX_FADV_WILLNEED)


@dataclass(frozen=True)
class UniformBlock:
    """Samples that all have the same members."""

    layout: Layout
    columns: list[list[Any]]
    places: _Places
    shards: list[OpenShard]  # keeps the descriptors open

    def samples(self, failed: Failed) -> Iterator[dict[str, Any]]:
        """Reads them in order; one dict each."""
        return sample_loop(self.layout)(self.columns, failed)


@dataclass(frozen=True)
class MixedBlock:
    """Samples whose members differ."""

    indices: list[int]
    weights: list[float]
    shards: list[OpenShard]
    positions: list[int]
    members: list[list[tuple[str, int, int, bytes | None]]]
    places: _Places

    def samples(self, failed: Failed) -> Iterator[dict[str, Any]]:
        """Reads them in order; one dict each."""
        for index, weight, shard, position, members, first, size in zip(
            self.indices,
            self.weights,
            self.shards,
            self.positions,
            self.members,
            self.places.firsts,
            self.places.sizes,
            strict=True,
        ):
            try:
                data = complete(b"", shard.fd, size, first)
            except OSError as error:
                failed(index, error)
                continue
            if data is None:
                failed(index, None)
                continue
            sample: dict[str, Any] = {"__key__": shard.index.key(position), "__url__": shard.url}
            for extension, offset, length, inline in members:
                sample[extension] = (
                    data[offset - first : offset - first + length] if inline is None else inline
                )
                if len(sample) == 3:
                    sample["__local_path__"] = shard.path
            sample["__index__"] = index
            sample["__weight__"] = weight
            yield sample


def plan_block(
    indices: NDArray[np.int64],
    weights: NDArray[np.float32],
    shards: list[OpenShard],
    positions: NDArray[np.int64],
) -> UniformBlock | MixedBlock:
    """Works out the reads of a block.

    Args:
        indices: sample indices, int64 (n,), n > 0.
        weights: float32 (n,).
        shards: the shard of each sample, length n.
        positions: its position there, int64 (n,).
    """
    layout = shards[0].index.head.layout
    groups = _group(shards)
    if layout is None or any(shard.index.head.layout != layout for shard, _ in groups):
        return _plan_mixed(indices, weights, shards, positions.tolist())
    if len(groups) * _GROUPED_FROM <= len(shards):
        columns = _columns_by_shard(layout, groups, positions)
    else:
        columns = _columns_by_sample(layout, shards, positions.tolist())
    columns = [
        indices.tolist(),
        weights.tolist(),
        columns[0],
        [shard.url for shard in shards],
        [shard.path for shard in shards],
        *columns[1:],
    ]
    fd_column = 5 + sum(is_inline for _, is_inline in layout)
    places = _Places([], [], [])
    if fd_column < 5 + len(layout):
        fds = [shard.fd for shard in shards]
        columns.insert(fd_column, fds)
        places = _Places(fds, columns[fd_column + 1], columns[fd_column + 2])
    return UniformBlock(layout, columns, places, shards)


def _group(shards: list[OpenShard]) -> list[tuple[OpenShard, list[int]]]:
    """The rows of each distinct shard."""
    rows: dict[int, tuple[OpenShard, list[int]]] = {}
    for row, shard in enumerate(shards):
        entry = rows.get(id(shard))
        if entry is None:
            rows[id(shard)] = (shard, [row])
        else:
            entry[1].append(row)
    return list(rows.values())


def _columns_by_shard(
    layout: Layout, groups: list[tuple[OpenShard, list[int]]], positions: NDArray[np.int64]
) -> list[list[Any]]:
    """Keys, inline members, first bytes, sizes, begins, ends: with numpy over all samples of a shard."""
    width, count = len(layout), len(positions)
    inline = [member for member, (_, is_inline) in enumerate(layout) if is_inline]
    large = [member for member, (_, is_inline) in enumerate(layout) if not is_inline]
    objects = np.empty((1 + len(inline), count), dtype=object)
    numbers = np.empty(
        (0 if not large else 2 if len(large) == 1 else 2 + 2 * len(large), count), dtype=np.int64
    )
    for shard, rows in groups:
        index, at = shard.index, positions[rows]
        objects[0, rows] = index.keys_of(at)
        for row, member in enumerate(inline, start=1):
            objects[row, rows] = index.inline_of(at * width + member)
        if large:
            numbers[:, rows] = _extents(index, [at * width + member for member in large])
    return [*objects.tolist(), *numbers.tolist()]


def _extents(index: ShardIndex, large: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """First byte and size of the read over the large members; if several, their begins and ends in it."""
    begins = [index.offsets[members] for members in large]
    ends = [begin + index.sizes[members] for begin, members in zip(begins, large, strict=True)]
    extents = [begins[0], ends[-1] - begins[0]]
    if len(large) > 1:
        for begin, end in zip(begins, ends, strict=True):
            extents += [begin - begins[0], end - begins[0]]
    return extents


def _columns_by_sample(layout: Layout, shards: list[OpenShard], positions: list[int]) -> list[list[Any]]:
    """As `_columns_by_shard`, for blocks that take only a few samples from each shard."""
    width = len(layout)
    inline = [member for member, (_, is_inline) in enumerate(layout) if is_inline]
    large = [member for member, (_, is_inline) in enumerate(layout) if not is_inline]
    indices = [shard.index for shard in shards]
    columns: list[list[Any]] = [[index.key(at) for index, at in zip(indices, positions, strict=True)]]
    views = [index.views for index in indices]
    for member in inline:
        columns.append(
            [
                index.inline_bytes[
                    view.inline_bounds[at * width + member] : view.inline_bounds[at * width + member + 1]
                ]
                for index, view, at in zip(indices, views, positions, strict=True)
            ]
        )
    if not large:
        return columns
    begins = [
        [view.offsets[at * width + member] for view, at in zip(views, positions, strict=True)]
        for member in large
    ]
    ends = [
        [
            begin + view.sizes[at * width + member]
            for begin, view, at in zip(column, views, positions, strict=True)
        ]
        for column, member in zip(begins, large, strict=True)
    ]
    firsts = begins[0]
    columns += [firsts, [end - first for first, end in zip(firsts, ends[-1], strict=True)]]
    if len(large) > 1:
        for begin_column, end_column in zip(begins, ends, strict=True):
            columns.append([begin - first for first, begin in zip(firsts, begin_column, strict=True)])
            columns.append([end - first for first, end in zip(firsts, end_column, strict=True)])
    return columns


def _plan_mixed(
    indices: NDArray[np.int64], weights: NDArray[np.float32], shards: list[OpenShard], positions: list[int]
) -> MixedBlock:
    members = [shard.index.members(at) for shard, at in zip(shards, positions, strict=True)]
    firsts, sizes = [], []
    for found in members:
        large = [(offset, size) for _, offset, size, inline in found if inline is None]
        firsts.append(large[0][0] if large else 0)
        sizes.append(large[-1][0] + large[-1][1] - large[0][0] if large else 0)
    places = _Places([shard.fd for shard in shards], firsts, sizes)
    return MixedBlock(indices.tolist(), weights.tolist(), shards, positions, members, places)
