"""Notices that nobody uses an embedded server any more: its users hold a shared lock, which can then be had alone."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from infobatch_stream.errors import ServerError

__all__ = ["UsersLock"]


class UsersLock:
    """The lock file of a server's users; each process holds a shared `flock` on it through a descriptor of its own.

    Args:
        path: the file; made if it isn't there.

    Raises:
        ServerError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            # A descriptor of our own: flock belongs to the open file, and a shared one would be its user too.
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ServerError(f"--exit-when-unused {path}: {error.strerror}") from error

    def is_unused(self) -> bool:
        """Whether nobody holds it; from then on nobody can take it until `close`.

        Raises:
            ServerError: the file system has no locks.
        """
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ServerError(f"the users' lock can't be taken: {error.strerror}; use a local disk") from error
        return True

    def close(self) -> None:
        """Gives it back."""
        os.close(self._handle)
