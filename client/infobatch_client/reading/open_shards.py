"""The shards that one process has open: a bounded number of descriptors and of mapped indexes."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

from infobatch_client.shards.index import ShardIndex
from infobatch_client.shards.index_store import IndexedShards, load_index, scan_shard
from infobatch_client.shards.tar_header import BLOCK_BYTES, check_header
from infobatch_stream.errors import CorruptShardError, ShardChangedError

__all__ = ["OpenShard", "OpenShards"]

_MAX_DESCRIPTORS = 4096
_MAX_INDICES = 8192


class OpenShard:
    """A descriptor of a shard with its index. The descriptor closes with the last reference to this object."""

    __slots__ = ("fd", "index", "path", "url")

    def __init__(self, fd: int, index: ShardIndex, url: str, path: str) -> None:
        self.fd = fd
        self.index = index
        self.url = url
        self.path = path

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

    def get(self, shard: int) -> OpenShard:
        """The shard with this number; if it isn't open, opens it and checks it against its index.

        Raises:
            ShardChangedError: the shard or its index file is missing or has changed since it was indexed.
            CorruptShardError: the shard can't be read.
        """
        open_shard = self._open.get(shard)
        if open_shard is None:
            open_shard = self._open_shard(shard)
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
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _changed(path, f"it can no longer be opened ({error.strerror})") from error
        open_shard = OpenShard(fd, index, self._indexed.urls[shard], path)
        try:
            self._check(open_shard, is_first_time)
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

    def _check(self, shard: OpenShard, is_first_time: bool) -> None:
        head, stat = shard.index.head, os.fstat(shard.fd)
        if stat.st_size != head.shard_bytes:
            raise _changed(shard.path, f"it has {stat.st_size} bytes, but {head.shard_bytes} when it was indexed")
        if stat.st_mtime_ns != head.mtime_ns:
            if scan_shard(shard.path).head.fingerprint != head.fingerprint:
                raise _changed(shard.path, "its members have changed")
        elif is_first_time:
            at, size = int(shard.index.offsets[-1]), int(shard.index.sizes[-1])
            if not check_header(os.pread(shard.fd, BLOCK_BYTES, at - BLOCK_BYTES), size):
                raise _changed(shard.path, f"no header of a member of {size} bytes at byte {at - BLOCK_BYTES}")


def _changed(path: str, what: str) -> ShardChangedError:
    return ShardChangedError(f"{path}: this shard no longer matches its index: {what}; re-run `infobatch index`")
