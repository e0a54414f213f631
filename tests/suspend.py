"""Stops a process so that it is stopped: a signal only asks for it, and a busy thread may still answer a call."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

__all__ = ["suspend"]


def suspend(pid: int) -> None:
    """Sends SIGSTOP, and returns once every thread of the process has stopped. SIGCONT resumes it."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 30
    while any(state(thread) not in "Tt" for thread in Path(f"/proc/{pid}/task").glob("*/stat")):
        assert time.monotonic() < deadline, f"process {pid} did not stop"
        time.sleep(0.001)


def state(thread: Path) -> str:
    """The letter of a thread's state; "T" for one that has ended meanwhile."""
    try:
        return thread.read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "T"
