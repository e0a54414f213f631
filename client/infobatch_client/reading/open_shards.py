"""The shards that one process has open: a bounded number of descriptors and of mapped indexes."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

import numpy as np

from infobatch_client.shards.index import ShardIndex
from infobatch_client.shards.index_store import IndexedShards, confirm_index, load_index
from infobatch_client.shards.stamp import Stamp
from infobatch_client.shards.tar_header import BLOCK_BYTES, fit_headers
from infobatch_client.shards.tar_scan import INLINE_BYTES
from infobatch_stream.errors import CorruptShardError, ShardChangedError, ShardError

__all__ = ["OpenShard", "OpenShards"]

_MAX_DESCRIPTORS = 4096
_MAX_INDICES = 8192
_PROBES = 4


class OpenShard:
    """A descriptor of a shard with its index. The descriptor closes with the last reference to this object."""

    __slots__ = ("fd", "index", "pass_number", "path", "stat", "url")

    def __init__(self, fd: int, index: ShardIndex, url: str, path: str) -> None:
        self.fd = fd
        self.index = index
        self.url = url
        self.path = path
        self.stat = os.fstat(fd)
        self.pass_number = 0

    @property
    def is_unchanged(self) -> bool:
        """Whether nobody has written into the file since it was opened. A deleted one stays as it was."""
        then, now = self.stat, os.fstat(self.fd)
        if (then.st_size, then.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
            return False
        return then.st_ctime_ns == now.st_ctime_ns or now.st_nlink == 0

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)  # a default argument: `os` may be gone when the interpreter exits


class OpenShards:
    """Opens shards on first use, and keeps the most recently opened ones.

    Keeps at most a quarter of the process's limit of open files, and at most 4,096, open. Not thread-safe. All
    reads are positioned, so a forked child may use the descriptors of its parent; a pickled copy starts with none.

    Args:
        indexed: the shards.
        max_descriptors: another limit of open shards.
    """

    def __init__(self, indexed: IndexedShards, max_descriptors: int | None = None) -> None:
        soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if soft_limit == resource.RLIM_INFINITY:
            soft_limit = 4 * _MAX_DESCRIPTORS
        self.limit = max_descriptors or max(16, min(_MAX_DESCRIPTORS, soft_limit // 4))
        self._indexed = indexed
        self._open: dict[int, OpenShard] = {}
        self._indices: dict[int, ShardIndex] = {}
        self._confirmed: dict[int, Stamp] = {}
        self._pass_number = 0

    def begin_pass(self) -> None:
        """From now on, a shard that is open is looked at once more, for a change in place."""
        self._pass_number += 1

    def get(self, shard: int) -> OpenShard:
        """The shard with this number; if it isn't open, or was changed before this pass, opens and checks it.

        Raises:
            ShardChangedError: the shard or its index file is missing or has changed since it was indexed.
            CorruptShardError: the shard can't be read.
        """
        open_shard = self._open.get(shard)
        if open_shard is not None and open_shard.pass_number != self._pass_number:
            open_shard.pass_number = self._pass_number
            if not open_shard.is_unchanged:
                del self._open[shard]
                open_shard = None
        if open_shard is None:
            open_shard = self._open_shard(shard)
            open_shard.pass_number = self._pass_number
            self._open[shard] = open_shard
            if len(self._open) > self.limit:
                del self._open[next(iter(self._open))]
        return open_shard

    def close(self) -> None:
        """Drops all shards and indexes; the next `get` opens its shard again."""
        self._open.clear()
        self._indices.clear()

    def _open_shard(self, shard: int) -> OpenShard:
        path = self._indexed.paths[shard]
        index = self._indices.get(shard)
        is_first_time = index is None
        if index is None:
            index = self._load_index(shard)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _changed(path, f"it can no longer be opened ({error.strerror})") from error
        open_shard = OpenShard(fd, index, self._indexed.urls[shard], path)
        try:
            self._check(open_shard, shard, is_first_time)
        except OSError as error:
            raise CorruptShardError(f"{path}: this shard can't be read: {error.strerror}; check its disk") from error
        return open_shard

    def _load_index(self, shard: int) -> ShardIndex:
        index = load_index(self._indexed.index_paths[shard])
        if index.head.fingerprint != self._indexed.manifest.shard_fingerprints[shard]:
            raise _changed(self._indexed.paths[shard], "its index file describes other contents now")
        self._indices[shard] = index
        if len(self._indices) > _MAX_INDICES:
            del self._indices[next(iter(self._indices))]
        return index

    def _check(self, shard: OpenShard, number: int, is_first_time: bool) -> None:
        head, stat = shard.index.head, shard.stat
        if stat.st_size != head.shard_bytes:
            raise _changed(shard.path, f"it has {stat.st_size} bytes, but {head.shard_bytes} when it was indexed")
        stamp = Stamp.of(stat)
        if not head.is_of(stat.st_size, stamp) and self._confirmed.get(number) != stamp:
            self._confirm(shard.path, number)
            self._confirmed[number] = stamp
        elif is_first_time:
            _probe(shard)

    def _confirm(self, path: str, number: int) -> None:
        """Scans a shard that was touched, moved or written again; as often as that happens, and once in a process."""
        try:
            is_same = confirm_index(self._indexed.index_paths[number], path)
        except ShardError as error:
            raise _changed(path, f"it is damaged now ({str(error).removeprefix(f'{path}: ')})") from error
        if not is_same:
            raise _changed(path, "its members have changed")


def _probe(shard: OpenShard) -> None:
    """Compares a few headers, and the members behind them that the index holds, with the shard.

    Where the stamp says nothing (file systems that show no time of the inode's change, images with constant times),
    this notices another file in the shard's place.
    """
    index = shard.index
    candidates = np.flatnonzero(index.sizes <= INLINE_BYTES)
    if not len(candidates):
        candidates = np.arange(len(index.sizes))
    step = max(1, (len(candidates) - 1) // (_PROBES - 1))
    numbers = np.append(candidates[::step][:_PROBES], len(index.sizes) - 1)
    offsets, sizes = index.offsets[numbers].tolist(), index.sizes[numbers].tolist()
    blocks = [
        os.pread(shard.fd, BLOCK_BYTES + (size if size <= INLINE_BYTES else 0), offset - BLOCK_BYTES)
        for offset, size in zip(offsets, sizes, strict=True)
    ]
    fits = fit_headers([block[:BLOCK_BYTES] for block in blocks], sizes)
    inline = index.inline_of(numbers)
    for offset, size, block, fit, data in zip(offsets, sizes, blocks, fits, inline, strict=True):
        if not fit:
            raise _changed(shard.path, f"no header of a member of {size} bytes at byte {offset - BLOCK_BYTES}")
        if block[BLOCK_BYTES:] != data:
            raise _changed(shard.path, f"other bytes in the member at byte {offset}")


def _changed(path: str, what: str) -> ShardChangedError:
    return ShardChangedError(f"{path}: this shard no longer matches its index: {what}; re-run `infobatch index`")
