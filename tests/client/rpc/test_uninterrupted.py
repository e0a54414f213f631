"""Calls on the main thread: Ctrl-C ends the wait for them, and not the call."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from infobatch_client.rpc.uninterrupted import uninterrupted


def test_an_interrupt_ends_the_wait_and_leaves_the_call_whole() -> None:
    lock, interrupted, ended = threading.Lock(), threading.Event(), threading.Event()

    def call() -> str:
        with lock:
            os.kill(os.getpid(), signal.SIGINT)
            interrupted.wait(10)
        ended.set()
        return threading.current_thread().name

    with pytest.raises(KeyboardInterrupt):
        uninterrupted(call)
    assert lock.locked()  # by the thread of the call, which goes on
    interrupted.set()
    assert ended.wait(10)
    with lock:
        pass
    assert uninterrupted(lambda: threading.current_thread().name) == "infobatch-call"


def test_an_error_is_raised_where_the_call_is_made() -> None:
    def fails() -> None:
        raise OSError("no answer")

    with pytest.raises(OSError, match="no answer"):
        uninterrupted(fails)


def test_other_threads_make_their_calls_themselves() -> None:
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(uninterrupted(threading.current_thread) is thread))
    thread.start()
    thread.join()
    assert seen == [True]
