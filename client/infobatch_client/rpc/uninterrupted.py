"""Runs a call in a thread that signals can't hit: Ctrl-C inside gRPC may leave its locks held, for all threads."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["uninterrupted"]

T = TypeVar("T")


def uninterrupted(call: Callable[[], T]) -> T:
    """The result of `call`; on the main thread, the only one in which KeyboardInterrupt is raised, by another thread.

    An interrupt ends the wait only: the call goes on in its thread until its answer or its deadline. The thread is
    kept for the next call, as starting one takes several times as long as a call of a server on the same machine.
    """
    if threading.current_thread() is not threading.main_thread() or sys.is_finalizing():
        return call()  # a daemon thread answers nothing once the interpreter is finalizing
    try:
        thread = _idle.pop() if _idle else _CallThread()
    except RuntimeError:  # the interpreter is shutting down, and starts no thread
        return call()
    pending = _Pending(call)
    thread.calls.put(pending.run)
    pending.done.acquire()
    _idle[:] = [thread]  # not after an interrupt: the call may take long, and the next one gets another thread
    return pending.result()


class _Pending(Generic[T]):
    """A call, and how it ended."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.done = threading.Lock()
        self.done.acquire()
        self._call = call
        self._results: list[T] = []
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:
            self._failure = error
        finally:
            self.done.release()

    def result(self) -> T:
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                self._failure = None  # else the error and this frame would keep each other alive
        return self._results[0]


class _CallThread:
    """A thread that makes one call after another, and ends when nobody holds this object."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(self.calls,), name="infobatch-call", daemon=True).start()

    def __del__(self) -> None:
        self.calls.put(None)


def _serve(calls: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()
        del call  # what the last call returned isn't kept while the next is waited for


_idle: list[_CallThread] = []  # at most one; the main thread's alone

os.register_at_fork(after_in_child=_idle.clear)  # the parent's thread doesn't exist there
