"""Keeps forks and gRPC calls of a process apart: gRPC's fork handlers work only while no thread is inside a call.

Otherwise gRPC skips them and writes a line to stderr, for every worker that is forked while scores are pushed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["call"]

_LONGEST_WAIT_S = 0.5  # of a fork for a call; a server that keeps silent may not hold up the workers' start
_REPEAT_S = 0.02


class _Gate:
    """How many threads are inside a call, and whether one is about to fork."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.calls = 0
        self.forks = 0
        self.interrupted = False


_gate = _Gate()


@contextmanager
def call() -> Iterator[None]:
    """A call, which begins while no fork is going on. From any thread."""
    gate = _gate
    with gate.changed:
        gate.changed.wait_for(lambda: not gate.forks, _LONGEST_WAIT_S)
        gate.calls += 1
    try:
        yield
    finally:
        with gate.changed:
            gate.calls -= 1
            gate.changed.notify_all()


def _before() -> None:
    try:
        with _gate.changed:
            _gate.forks += 1
            _gate.changed.wait_for(lambda: not _gate.calls, _LONGEST_WAIT_S)
    except KeyboardInterrupt:
        # Python ignores an exception in here, and Ctrl-C while a worker's start waits for a call would have no effect.
        _gate.interrupted = True


def _after_in_parent() -> None:
    with _gate.changed:
        _gate.forks = max(0, _gate.forks - 1)  # an interrupt may have come before the count
        _gate.changed.notify_all()
        interrupted, _gate.interrupted = _gate.interrupted, False
    if interrupted:
        # A signal, as it must end the main thread's sleep too, once the handlers of the fork are over.
        threading.Timer(_REPEAT_S, os.kill, (os.getpid(), signal.SIGINT)).start()


def _after_in_child() -> None:
    """The threads that were inside, and what they have locked, don't exist here."""
    global _gate
    _gate = _Gate()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
