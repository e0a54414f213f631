"""The store's two ways to the disk, files and SQLite, with all that they do recorded in one log."""

from __future__ import annotations

import errno
import itertools
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from infobatch_server.store.files import LocalFiles
from tests.server.power.disk import Disk

__all__ = ["ApswConnection", "Fault", "RecordingFiles", "RecordingVfs", "connecting", "no_fault"]

Fault = Callable[[str, Path], None]
"""Called before each operation, by its name and path; what it raises is what the operation raises: an OSError."""

_numbers = itertools.count()


def no_fault(operation: str, path: Path) -> None:
    pass


class RecordingFiles(LocalFiles):
    """Local files whose changes are recorded. Nothing is really synced: nobody cuts the power here.

    Args:
        disk: the log.
        forgets: the syncs that are left out, as by a program that lacks them: the end of a text with the functions of
            the server that are being called, "module.function", the outermost first, and the operation.
        fault: called before each operation.
    """

    def __init__(self, disk: Disk, forgets: str = "", fault: Fault = no_fault) -> None:
        self._disk = disk
        self._forgets = forgets
        self._fault = fault
        self._open: dict[int, tuple[Path, int]] = {}
        self.seen: set[str] = set()
        """The callers of all syncs."""

    def make_folder(self, path: Path) -> None:
        self._fault("make_folder", path)
        super().make_folder(path)
        self._disk.create(path, is_folder=True)

    def create(self, path: Path) -> int:
        self._fault("create", path)
        handle = super().create(path)
        self._disk.create(path)
        self._disk.truncate(path, 0)
        self._open[handle] = path, 0
        return handle

    def write(self, handle: int, data: bytes | memoryview) -> None:
        path, offset = self._open[handle]
        self._fault("write", path)
        super().write(handle, data)
        self._disk.write(path, offset, bytes(data))
        self._open[handle] = path, offset + memoryview(data).nbytes

    def sync(self, handle: int) -> None:
        path, _ = self._open[handle]
        self._fault("sync", path)
        if not self._is_forgotten("sync"):
            self._disk.sync(path)

    def close(self, handle: int) -> None:
        super().close(handle)
        del self._open[handle]

    def rename(self, old: Path, new: Path) -> None:
        self._fault("rename", new)
        super().rename(old, new)
        self._disk.rename(old, new)

    def remove(self, path: Path) -> None:
        self._fault("remove", path)
        super().remove(path)
        self._disk.remove(path)

    def sync_folder(self, path: Path) -> None:
        self._fault("sync_folder", path)
        if not self._is_forgotten("sync_folder"):
            self._disk.sync(path)

    def allocate(self, path: Path, size_bytes: int) -> None:
        self._fault("allocate", path)
        super().allocate(path, size_bytes)
        self._disk.create(path)
        self._disk.truncate(path, size_bytes)
        self._disk.sync(path)

    def _is_forgotten(self, operation: str) -> bool:
        callers = f"{_callers()} {operation}"
        self.seen.add(callers)
        return bool(self._forgets) and callers.endswith(self._forgets)


class RecordingVfs(apsw.VFS):
    """SQLite's own layer, recorded.

    Args:
        disk: the log.
        fault: called before each operation.
    """

    def __init__(self, disk: Disk, fault: Fault = no_fault) -> None:
        self.name = f"recording-{next(_numbers)}"
        self.disk = disk
        self.fault = fault
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        assert name is not None, "the store uses no temporary files"
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        with _as_sqlite_error():
            if not path.exists():
                self.fault("create", path)
        file = _RecordingFile(self, name, flags, path)
        self.disk.create(path)
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:
        path = Path(filename)
        with _as_sqlite_error():
            self.fault("remove", path)
        super().xDelete(filename, False)
        self.disk.remove(path)
        if syncdir:
            self.disk.sync(path.parent)


class _RecordingFile(apsw.VFSFile):
    def __init__(self, vfs: RecordingVfs, name: str | apsw.URIFilename, flags: list[int], path: Path) -> None:
        self._vfs = vfs
        self._path = path
        # SQLite's own layer for Unix syncs the folder, too, when it syncs a journal for the first time.
        journals = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
        self._syncs_folder = bool(flags[0] & journals and flags[0] & apsw.SQLITE_OPEN_CREATE)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        with _as_sqlite_error():
            self._vfs.fault("write", self._path)
        super().xWrite(data, offset)
        self._vfs.disk.write(self._path, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:
        with _as_sqlite_error():
            self._vfs.fault("truncate", self._path)
        super().xTruncate(newsize)
        self._vfs.disk.truncate(self._path, newsize)

    def xSync(self, flags: int) -> None:
        with _as_sqlite_error():
            self._vfs.fault("sync", self._path)
        self._vfs.disk.sync(self._path)
        if self._syncs_folder:
            self._vfs.disk.sync(self._path.parent)
            self._syncs_folder = False


class ApswConnection:
    """A connection of apsw with the errors of sqlite3.

    Args:
        path: the database's.
        vfs: name of the layer below.
        synchronous: in place of the value that the store sets.
    """

    def __init__(self, path: Path, vfs: str, synchronous: str = "") -> None:
        self._synchronous = synchronous
        with _as_sqlite3_error():
            self._connection = apsw.Connection(str(path), vfs=vfs)

    def execute(self, sql: str, parameters: Any = (), /) -> Iterator[tuple[Any, ...]]:
        """The rows, all of them read."""
        if self._synchronous and sql.startswith("PRAGMA synchronous"):
            sql = f"PRAGMA synchronous={self._synchronous}"
        with _as_sqlite3_error():
            return iter(list(self._connection.execute(sql, parameters)))

    def close(self) -> None:
        with _as_sqlite3_error():
            self._connection.close()


def connecting(vfs: RecordingVfs, synchronous: str = "") -> Callable[[Path], ApswConnection]:
    """A function that connects through a layer."""
    return lambda path: ApswConnection(path, vfs.name, synchronous)


@contextmanager
def _as_sqlite_error() -> Iterator[None]:
    """Turns an OSError into what SQLite's own layer answers."""
    try:
        yield
    except OSError as error:
        kind = apsw.FullError if error.errno == errno.ENOSPC else apsw.IOError
        raise kind(os.strerror(error.errno or 0)) from error


@contextmanager
def _as_sqlite3_error() -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        if isinstance(error, apsw.FullError):
            raise sqlite3.OperationalError("database or disk is full") from error
        kind = sqlite3.DatabaseError if isinstance(error, apsw.NotADBError | apsw.CorruptError) else None
        raise (kind or sqlite3.OperationalError)(str(error)) from error


def _callers() -> str:
    """Names of the functions of the store that are being called, the outermost first."""
    names: list[str] = []
    frame = sys._getframe(2)
    while frame is not None:
        if "/infobatch_server/" in frame.f_code.co_filename:
            names.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return " ".join(reversed(names))
