"""Keeps index files: makes them once, beside the shards or in the user's cache, and finds them again."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
from tqdm import tqdm

from infobatch_client.shards.grouping import index_members
from infobatch_client.shards.index import IndexHead, ShardIndex
from infobatch_client.shards.tar_scan import scan_tar
from infobatch_client.shards.urls import local_path
from infobatch_stream.errors import ConfigError, ShardChangedError, ShardError
from infobatch_stream.manifest import Manifest

__all__ = ["IndexedShards", "index_shards", "load_index", "scan_shard"]

_SUFFIX = ".index.arrow"
_THREADS = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexedShards:
    """Shards whose index files exist. Immutable and picklable; workers map the index files themselves.

    Attributes:
        manifest: names, counts and fingerprints.
        urls: the shards as listed; what samples have as `__url__`.
        paths: their local paths.
        index_paths: their index files.
        total_bytes: size of all shards together.
    """

    manifest: Manifest
    urls: tuple[str, ...]
    paths: tuple[str, ...]
    index_paths: tuple[str, ...]
    total_bytes: int


class _Bar(tqdm):  # type: ignore[type-arg]
    """A progress bar without tqdm's monitor thread, which would live on when workers are forked."""

    monitor_interval = 0


def index_shards(urls: Sequence[str], *, progress: bool | None = None, force: bool = False) -> IndexedShards:
    """Gives the indices of shards, scanning those that have no valid index file.

    An index file is valid while its shard has the size and the modification time that it had when it was
    indexed. Several processes may do this at once; index files appear whole or not at all.

    Args:
        urls: what `expand_shards` returned.
        progress: a progress bar when scanning takes more than a second: True and False say so, None means on
            a terminal only.
        force: scan all of them again.

    Raises:
        ShardError: a shard that is missing, empty, damaged, compressed, or has a key twice; named.
        ConfigError: no place to write an index file.
    """
    paths = [local_path(url) for url in urls]
    found = [None if force else _find_valid(path) for path in paths]
    missing = [number for number, entry in enumerate(found) if entry is None]
    if missing:
        disable = None if progress is None else not progress
        with (
            ThreadPoolExecutor(min(_THREADS, len(missing)), thread_name_prefix="infobatch-index") as pool,
            _Bar(total=len(missing), desc="indexing", unit="shard", delay=1.0, disable=disable) as bar,
        ):
            try:
                for number, entry in zip(missing, pool.map(_make, [paths[n] for n in missing]), strict=True):
                    found[number] = entry
                    bar.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    entries = [entry for entry in found if entry is not None]
    heads = [head for _, head in entries]
    return IndexedShards(
        manifest=Manifest(
            names=tuple(urls),
            counts=tuple(head.count for head in heads),
            shard_fingerprints=tuple(head.fingerprint for head in heads),
        ),
        urls=tuple(urls),
        paths=tuple(paths),
        index_paths=tuple(index_path for index_path, _ in entries),
        total_bytes=sum(head.shard_bytes for head in heads),
    )


def scan_shard(path: str) -> ShardIndex:
    """Indexes one shard by walking its headers, whatever index files there are.

    Raises:
        ShardChangedError: it was written to meanwhile.
        ShardError: missing, empty, damaged, compressed, or a key twice.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ShardError(f"{path}: this shard can't be opened: {error.strerror}; check path and rights") from error
    try:
        before = os.fstat(fd)
        members = scan_tar(fd, path)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ShardChangedError(f"{path}: this shard was written to while it was indexed; wait until it is complete")
    return index_members(members, path, shard_bytes=after.st_size, mtime_ns=after.st_mtime_ns)


def load_index(index_path: str) -> ShardIndex:
    """Maps an index file into memory.

    Raises:
        ShardChangedError: it is gone, damaged, or of another version.
    """
    try:
        with pa.memory_map(index_path) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        return ShardIndex.from_arrow(batch)
    except (OSError, pa.ArrowException, ValueError, ShardChangedError) as error:
        raise ShardChangedError(
            f"{index_path}: this index file can't be used ({error}); re-run `infobatch index`"
        ) from error


def _find_valid(path: str) -> tuple[str, IndexHead] | None:
    try:
        stat = os.stat(path)
    except OSError as error:
        raise ShardError(f"{path}: this shard can't be read: {error.strerror}; check path and rights") from error
    for index_path in _places(path):
        head = _read_head(index_path)
        if head is not None and (head.shard_bytes, head.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return index_path, head
    return None


def _make(path: str) -> tuple[str, IndexHead]:
    index = scan_shard(path)
    for place in _places(path):
        before = _read_head(place)
        if before is not None and before.fingerprint != index.head.fingerprint:
            _log.warning("%s: its contents differ from those indexed before; this is another data set now", path)
            break
    return _write(index, path), index.head


def _read_head(index_path: str) -> IndexHead | None:
    try:
        with pa.memory_map(index_path) as source:
            return IndexHead.from_schema(pa.ipc.open_file(source).schema)
    except (OSError, pa.ArrowInvalid):
        return None


def _places(path: str) -> Iterator[str]:
    """Where the index file of a shard may be: beside it, or in the user's cache."""
    yield path + _SUFFIX
    full = os.path.realpath(path)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = f"{hashlib.blake2b(os.fsencode(full), digest_size=12).hexdigest()}-{os.path.basename(full)}{_SUFFIX}"
    yield os.path.join(cache, "infobatch", "index", name)


def _write(index: ShardIndex, path: str) -> str:
    beside, cached = _places(path)
    try:
        _write_atomically(index, beside)
        return beside
    except OSError:
        pass  # a read-only folder: the cache is for that
    try:
        os.makedirs(os.path.dirname(cached), exist_ok=True)
        _write_atomically(index, cached)
        return cached
    except OSError as error:
        raise ConfigError(
            f"{path}: its index can be written neither beside it nor to {os.path.dirname(cached)} "
            f"({error.strerror}); set XDG_CACHE_HOME to a folder that is writable"
        ) from error


def _write_atomically(index: ShardIndex, target: str) -> None:
    batch = index.to_arrow()
    fd, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=os.path.dirname(target) or ".")
    try:
        with os.fdopen(fd, "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
