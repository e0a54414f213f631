"""Watches an embedded server's process, which any of the programs that use the server may have started.

A process id alone is not enough: the system reuses it sooner or later.
"""

from __future__ import annotations

import os
import select
from pathlib import Path

__all__ = ["ServerProcess"]


class ServerProcess:
    """Whether the process of a server still runs.

    Args:
        pid: the server's, while it is known to run.
        argument: from its command line, to check that `pid` means the same process here; in a container it may not.
    """

    def __init__(self, pid: int, argument: str) -> None:
        self.pid = pid
        self._handle = _handle_of(pid, argument)
        self._ended = False

    @property
    def alive(self) -> bool | None:
        """Whether it runs; None if that can't be seen from here."""
        if self._ended:
            return False
        if self._handle is None:
            return None
        # Readable once the process has ended, waited for or not.
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        self._ended = bool(poll.poll(0))
        return not self._ended

    def close(self) -> None:
        """Releases the handle; the process is not affected."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _handle_of(pid: int, argument: str) -> int | None:
    open_process = getattr(os, "pidfd_open", None)
    if open_process is None:
        return None
    try:
        handle: int = open_process(pid)
    except OSError:
        return None
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        arguments = []
    if os.fsencode(argument) in arguments:
        return handle
    os.close(handle)
    return None
