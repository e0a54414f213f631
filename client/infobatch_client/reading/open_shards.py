"""The shards that one process has open: a bounded number of descriptors and of mapped indices."""

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
    """A descriptor of a shard with its index. The descriptor closes when nobody refers to this any more."""

    __slots__ = ("fd", "index", "path", "url")

    def __init__(self, fd: int, index: ShardIndex, url: str, path: str) -> None:
        self.fd = fd
        self.index = index
        self.url = url
        self.path = path

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)  # bound early: at the end of the interpreter `os` may be gone


class OpenShards:
    """Opens shards when they are first needed, and keeps those opened last.

    At most a quarter of the process's limit of open files, and at most 4,096, are kept open. Not for use by
    several threads at once. Descriptors are only ever read at given positions, so a forked child may go on
    with its parent's; a pickled copy starts with none.

    Args:
        indexed: the shards.
        max_descriptors: a smaller bound.
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
        """The shard of this number, opened and checked against its index if it isn't open yet.

        Raises:
            ShardChangedError: shard or index file are gone or not those that were indexed.
        """
        found = self._open.get(shard)
        if found is None:
            found = self._open_shard(shard)
            self._open[shard] = found
            if len(self._open) > self.limit:
                del self._open[next(iter(self._open))]
        return found

    def close(self) -> None:
        """Forgets everything; the next `get` opens anew."""
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
            raise _changed(path, f"it can't be opened any more ({error.strerror})") from error
        opened = OpenShard(fd, index, self._indexed.urls[shard], path)
        try:
            self._check(opened, is_first_time)
        except OSError as error:
            raise CorruptShardError(f"{path}: this shard can't be read: {error.strerror}; check its disk") from error
        return opened

    def _load_index(self, shard: int) -> ShardIndex:
        index = load_index(self._indexed.index_paths[shard])
        if index.head.fingerprint != self._indexed.manifest.shard_fingerprints[shard]:
            raise _changed(self._indexed.paths[shard], "its index file is that of other contents now")
        self._indices[shard] = index
        if len(self._indices) > _MAX_INDICES:
            del self._indices[next(iter(self._indices))]
        return index

    def _check(self, opened: OpenShard, is_first_time: bool) -> None:
        head, stat = opened.index.head, os.fstat(opened.fd)
        if stat.st_size != head.shard_bytes:
            raise _changed(opened.path, f"it has {stat.st_size} bytes, {head.shard_bytes} were indexed")
        if stat.st_mtime_ns != head.mtime_ns:
            if scan_shard(opened.path).head.fingerprint != head.fingerprint:
                raise _changed(opened.path, "its members are not those that were indexed")
        elif is_first_time:
            at, size = int(opened.index.offsets[-1]), int(opened.index.sizes[-1])
            if not check_header(os.pread(opened.fd, BLOCK_BYTES, at - BLOCK_BYTES), size):
                raise _changed(opened.path, f"no header of a member of {size} bytes at byte {at - BLOCK_BYTES}")


def _changed(path: str, what: str) -> ShardChangedError:
    return ShardChangedError(f"{path}: this shard no longer matches its index: {what}; re-run `infobatch index`")
