"""Runs a call in a thread that signals can't hit: Ctrl-C inside gRPC may leave its locks held, for all threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["uninterrupted"]

T = TypeVar("T")


def uninterrupted(call: Callable[[], T]) -> T:
    """The result of `call`; on the main thread, the only one in which KeyboardInterrupt is raised, by another thread.

    An interrupt ends the wait only: the call goes on in its thread until its answer or its deadline.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    results: list[T] = []
    failures: list[BaseException] = []
    done = threading.Lock()
    done.acquire()

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            failures.append(error)
        finally:
            done.release()

    try:
        threading.Thread(target=run, name="infobatch-call", daemon=True).start()
    except RuntimeError:  # the interpreter is shutting down, and starts no thread
        return call()
    done.acquire()
    if failures:
        raise failures[0]
    return results[0]
