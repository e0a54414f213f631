"""Index files: writes them once, beside the shards or in the user's cache, and finds and reads them later."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from stat import S_ISREG

import pyarrow as pa

from infobatch_client.shards.bad_shards import MAX_NAMED, error_of_all
from infobatch_client.shards.grouping import index_members
from infobatch_client.shards.index import IndexHead, ShardIndex
from infobatch_client.shards.progress import ProgressBar
from infobatch_client.shards.stamp import Stamp, let_clock_tick
from infobatch_client.shards.tar_scan import scan_tar
from infobatch_client.shards.urls import local_path
from infobatch_stream.errors import ConfigError, CorruptShardError, ShardChangedError, ShardError
from infobatch_stream.manifest import Manifest

__all__ = ["IndexedShards", "confirm_index", "index_shards", "load_index", "scan_shard"]

_SUFFIX = ".index.arrow"
_THREADS = 8
_MAX_STAMPS = 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexedShards:
    """Shards whose index files exist. Immutable and picklable; workers map the index files themselves.

    Attributes:
        manifest: names, counts and fingerprints.
        urls: the shards as listed; a sample's `__url__`.
        paths: their local paths.
        index_paths: their index files.
        total_bytes: size of all shards together.
        left_out: listed shards that can't be used, and why: (URL, reason); no part of anything above.
    """

    manifest: Manifest
    urls: tuple[str, ...]
    paths: tuple[str, ...]
    index_paths: tuple[str, ...]
    total_bytes: int
    left_out: tuple[tuple[str, str], ...] = ()


def index_shards(
    urls: Sequence[str],
    *,
    progress: bool | None = None,
    force: bool = False,
    max_left_out: int | None = 0,
    max_named: int = MAX_NAMED,
) -> IndexedShards:
    """Finds the index files of shards, and indexes the shards that have no valid one.

    An index file is valid while its shard has the size and the stamp (modification time, time of the inode's change,
    inode) that it had when it was indexed. If not, as after copying both, the shard is scanned again; if it still has
    the same contents, the index file learns the new stamp too, and the next start scans nothing. Several processes may
    index the same shards at once; index files appear whole or not at all.

    Args:
        urls: the result of `expand_shards`.
        progress: whether to show a progress bar if scanning takes more than a second; None: on a terminal only.
        force: scan all shards again.
        max_left_out: how many bad shards may be left out; None: any number, but one shard must be good.
        max_named: how many bad shards an error names.

    Raises:
        ShardError: a shard is missing, empty, damaged or compressed, or has a duplicate key; the message names it, and
            all others that are bad.
        ConfigError: an index file can be written neither beside its shard nor in the cache.
    """
    paths = [local_path(url) for url in urls]
    found = [_find_valid(path, force=force) for path in paths]
    missing = [number for number, entry in enumerate(found) if entry is None]
    if missing:
        with (
            ThreadPoolExecutor(min(_THREADS, len(missing)), thread_name_prefix="infobatch-index") as pool,
            ProgressBar(len(missing), "indexing", progress) as bar,
        ):
            try:
                indexed = pool.map(_index_shard, [paths[number] for number in missing])
                for number, entry in zip(missing, indexed, strict=True):
                    found[number] = entry
                    bar.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    errors = [(number, entry) for number, entry in enumerate(found) if isinstance(entry, ShardError)]
    good = [(number, *entry) for number, entry in enumerate(found) if isinstance(entry, tuple)]
    if errors and (not good or (max_left_out is not None and len(errors) > max_left_out)):
        raise error_of_all([error for _, error in errors], len(urls), max_left_out, max_named)
    return IndexedShards(
        manifest=Manifest(
            names=tuple(urls[number] for number, _, _ in good),
            counts=tuple(head.count for _, _, head in good),
            shard_fingerprints=tuple(head.fingerprint for _, _, head in good),
            left_out=tuple(urls[number] for number, _ in errors),
        ),
        urls=tuple(urls[number] for number, _, _ in good),
        paths=tuple(paths[number] for number, _, _ in good),
        index_paths=tuple(index_path for _, index_path, _ in good),
        total_bytes=sum(head.shard_bytes for _, _, head in good),
        left_out=tuple((urls[number], str(error)) for number, error in errors),
    )


def scan_shard(path: str) -> ShardIndex:
    """Indexes one shard from its tar headers; ignores existing index files.

    Raises:
        ShardChangedError: the shard was written to during the scan.
        ShardError: the shard is missing, empty, damaged or compressed, or has a duplicate key.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe without a writer would block
    except OSError as error:
        raise ShardError(
            f"{path}: this shard can't be opened: {error.strerror}; check its path and permissions"
        ) from error
    try:
        before = os.fstat(fd)
        if not S_ISREG(before.st_mode):
            raise _not_regular(path)
        let_clock_tick(before)
        members = scan_tar(fd, path)
        after = os.fstat(fd)
    except OSError as error:
        raise CorruptShardError(f"{path}: reading failed ({error.strerror}); check its disk") from error
    finally:
        os.close(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ShardChangedError(f"{path}: this shard changed while it was indexed; wait until it is complete")
    return index_members(members, path, shard_bytes=before.st_size, stamp=Stamp.of(before))


def _not_regular(path: str) -> ShardError:
    return ShardError(f"{path}: this shard is no regular file, so it can't be read by position; copy it to one")


def load_index(index_path: str) -> ShardIndex:
    """Maps an index file into memory.

    Raises:
        ShardChangedError: the file is missing, damaged, or of another version.
    """
    try:
        with pa.memory_map(index_path) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        return ShardIndex.from_arrow(batch)
    except (OSError, pa.ArrowException, ValueError, ShardChangedError) as error:
        raise ShardChangedError(
            f"{index_path}: this index file can't be used ({error}); re-run `infobatch index`"
        ) from error


def _find_valid(path: str, *, force: bool) -> tuple[str, IndexHead] | ShardError | None:
    """A shard's valid index file and its head; None if there is none; the error of a shard that can't be opened."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return ShardError(f"{path}: no such shard; check the path, and the working folder {os.getcwd()}")
    except OSError as error:
        return ShardError(f"{path}: this shard can't be read: {error.strerror}; check its path and permissions")
    if not S_ISREG(stat.st_mode):
        return _not_regular(path)
    for index_path in () if force else _places(path):
        head = _read_head(index_path)
        if head is not None and head.is_of(stat.st_size, Stamp.of(stat)):
            return index_path, head
    return None


def _index_shard(path: str) -> tuple[str, IndexHead] | ShardError:
    try:
        index = scan_shard(path)
    except ShardError as error:
        return error
    known = [head for head in map(_read_head, _places(path)) if head is not None]
    if known and known[0].fingerprint != index.head.fingerprint:
        _log.warning("%s: the contents of this shard have changed; the data set is a different one now", path)
    return _write(_with_stamps(index, known), path), index.head


def confirm_index(index_path: str, path: str) -> bool:
    """Scans a shard whose stamp its index file doesn't know; the index file learns it if the contents are the same.

    Returns:
        Whether the shard has the contents that the index file describes.

    Raises:
        ShardError: the shard is missing, empty, damaged or compressed, or has a duplicate key.
    """
    index, head = scan_shard(path), _read_head(index_path)
    if head is None or index.head.fingerprint != head.fingerprint:
        return False
    try:
        _write_atomically(_with_stamps(index, [head]), index_path)
    except OSError:
        pass  # a read-only folder: the next process scans again
    return True


def _with_stamps(index: ShardIndex, known: list[IndexHead]) -> ShardIndex:
    """The index with the stamps that other index files of the same contents know."""
    stamps = [*index.head.stamps]
    for head in known:
        if (head.fingerprint, head.shard_bytes) == (index.head.fingerprint, index.head.shard_bytes):
            stamps += head.stamps
    return replace(index, head=replace(index.head, stamps=tuple(dict.fromkeys(stamps))[:_MAX_STAMPS]))


def _read_head(index_path: str) -> IndexHead | None:
    try:
        with pa.memory_map(index_path) as source:
            return IndexHead.from_schema(pa.ipc.open_file(source).schema)
    except (OSError, pa.ArrowInvalid):
        return None


def _places(path: str) -> Iterator[str]:
    """The possible paths of a shard's index file: beside the shard, then in the user's cache."""
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
        pass  # a read-only folder: use the cache
    try:
        os.makedirs(os.path.dirname(cached), exist_ok=True)
        _write_atomically(index, cached)
        return cached
    except OSError as error:
        raise ConfigError(
            f"{path}: its index can be written neither beside it nor to {os.path.dirname(cached)} "
            f"({error.strerror}); set XDG_CACHE_HOME to a writable folder"
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
