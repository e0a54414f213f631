"""Detects that an embedded server has no users: each user holds a shared lock, so an exclusive lock shows it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from infobatch_stream.errors import ServerError

__all__ = ["UsersLock"]


class UsersLock:
    """The lock file of a server's users, on which each user process holds a shared `flock` with its own descriptor.

    Args:
        path: the file; created if it is missing.

    Raises:
        ServerError: the file can't be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            # Our own descriptor: a flock belongs to the open file, so an inherited one would count as a user.
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ServerError(f"--exit-when-unused {path}: {error.strerror}") from error

    def is_unused(self) -> bool:
        """Whether no process holds the lock; if True, none can take it before `close`.

        Raises:
            ServerError: the file system doesn't support locks.
        """
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ServerError(f"the users' lock file can't be locked: {error.strerror}; use a local disk") from error
        return True

    def close(self) -> None:
        """Releases the lock."""
        os.close(self._handle)
