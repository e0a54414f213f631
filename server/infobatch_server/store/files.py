"""The one place that writes files: a few operations, so that tests can record each, or lose what wasn't synced."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

__all__ = ["Files", "LocalFiles", "is_temporary", "sync_parents", "write_file"]

_TEMPORARY = ".tmp"


class Files(Protocol):
    """The operations by which a store changes its folder. Safe to call from many threads."""

    def make_folder(self, path: Path) -> None:
        """Makes a folder, if it isn't there."""

    def create(self, path: Path) -> int:
        """Opens a new and empty file; returns its handle."""

    def write(self, handle: int, data: bytes | memoryview) -> None:
        """Appends all of the bytes."""

    def sync(self, handle: int) -> None:
        """Returns once the file's bytes are on the disk."""

    def close(self, handle: int) -> None:
        """Closes a file."""

    def rename(self, old: Path, new: Path) -> None:
        """Gives a file another name in its folder, in place of a file that has it."""

    def remove(self, path: Path) -> None:
        """Removes a file or an empty folder."""

    def sync_folder(self, path: Path) -> None:
        """Returns once the folder's names are on the disk."""

    def allocate(self, path: Path, size_bytes: int) -> None:
        """Makes a file that takes up so many bytes of the disk."""


class LocalFiles:
    """The operations of the operating system."""

    def make_folder(self, path: Path) -> None:
        """Makes a folder that its owner alone may read."""
        path.mkdir(mode=0o700, exist_ok=True)

    def create(self, path: Path) -> int:
        """Opens a file that its owner alone may read."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, handle: int, data: bytes | memoryview) -> None:
        """Writes until all is written."""
        left = memoryview(data).cast("B")
        while left:
            left = left[os.write(handle, left) :]

    def sync(self, handle: int) -> None:
        """fsync."""
        os.fsync(handle)

    def close(self, handle: int) -> None:
        """close."""
        os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        """rename."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        """unlink, or rmdir."""
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)

    def sync_folder(self, path: Path) -> None:
        """fsync of the folder."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def allocate(self, path: Path, size_bytes: int) -> None:
        """posix_fallocate where there is one; elsewhere zeros."""
        handle = self.create(path)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, size_bytes)
            else:
                for _ in range(-(-size_bytes // 2**20)):
                    self.write(handle, bytes(2**20))
            os.fsync(handle)
        finally:
            os.close(handle)


def write_file(files: Files, path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Writes a file that is there whole or not at all: under another name, synced, renamed, its folder synced.

    Raises:
        OSError: it could not be written; what was written of it is removed.
    """
    temporary = path.with_name(path.name + _TEMPORARY)
    handle = files.create(temporary)
    try:
        try:
            for part in parts:
                files.write(handle, part)
            files.sync(handle)
        finally:
            files.close(handle)
        files.rename(temporary, path)
    except BaseException:
        files.remove(temporary)
        raise
    files.sync_folder(path.parent)


def sync_parents(files: Files, folder: Path) -> None:
    """Returns once a folder's own name is on the disk, and the names of those above it on the same file system.

    Raises:
        OSError: a folder can't be synced.
    """
    folder = folder.absolute()
    device = folder.stat().st_dev
    for parent in folder.parents:
        if parent.stat().st_dev != device:
            return
        try:
            files.sync_folder(parent)
        except PermissionError:
            return  # nobody who makes a folder in it lacks the right to read it


def is_temporary(path: Path) -> bool:
    """Whether a file is one that `write_file` had not finished."""
    return path.name.endswith(_TEMPORARY)
