"""Calls on the main thread: Ctrl-C ends the wait for them, and not the call."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from infobatch_client.rpc.uninterrupted import uninterrupted


@contextmanager
def interrupt() -> Iterator[Callable[[], None]]:
    """What a call runs in its thread to interrupt the main thread, once, which then is inside `uninterrupted`."""
    interrupted = threading.Event()

    def handler(number: int, frame: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def send() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while not interrupted.wait(0.05):  # Python misses a signal that comes just as the main thread begins to wait
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield send
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_the_wait_and_leaves_the_call_whole() -> None:
    lock, goes_on, ended = threading.Lock(), threading.Event(), threading.Event()

    def call() -> None:
        with lock:
            send()
            goes_on.wait(10)
        ended.set()

    with interrupt() as send, pytest.raises(KeyboardInterrupt):
        uninterrupted(call)
    assert lock.locked()  # by the thread of the call, which goes on
    goes_on.set()
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


def test_calls_of_the_main_thread_share_one_thread_that_is_kept() -> None:
    threads = {uninterrupted(threading.current_thread) for _ in range(100)}
    assert len(threads) == 1
    assert threads != {threading.main_thread()}


def test_the_call_after_an_interrupt_does_not_wait_for_the_one_before() -> None:
    goes_on = threading.Event()

    def call() -> None:
        send()
        assert goes_on.wait(10)

    before = uninterrupted(threading.current_thread)
    with interrupt() as send, pytest.raises(KeyboardInterrupt):
        uninterrupted(call)
    after = uninterrupted(threading.current_thread)
    assert before.is_alive()
    assert after is not before
    goes_on.set()
    before.join(10)
    assert not before.is_alive()  # one thread is kept, however many calls are interrupted
    assert uninterrupted(threading.current_thread) is after


def test_a_signal_handler_may_make_calls_while_the_main_thread_waits_for_one() -> None:
    handled, seen = threading.Event(), []

    def handler(number: int, frame: object) -> None:
        if not handled.is_set():
            seen.append(uninterrupted(threading.current_thread))
            handled.set()

    def call() -> threading.Thread:
        os.kill(os.getpid(), signal.SIGUSR1)
        while not handled.wait(0.05):
            os.kill(os.getpid(), signal.SIGUSR1)
        return threading.current_thread()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        own = uninterrupted(call)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert own is not seen[0]
    assert uninterrupted(threading.current_thread) is own
    seen[0].join(10)
    assert not seen[0].is_alive()


def test_a_forked_child_makes_its_calls_by_a_thread_of_its_own() -> None:
    uninterrupted(threading.current_thread)
    child = multiprocessing.get_context("fork").Process(target=_calls)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    _calls()


def _calls() -> None:
    assert uninterrupted(os.getpid) == os.getpid()
    assert uninterrupted(threading.current_thread).is_alive()


def test_nothing_of_a_call_is_kept_until_the_next() -> None:
    class Answer:
        pass

    def fails() -> None:
        raise LookupError(Answer())

    answer = weakref.ref(uninterrupted(Answer))
    # The thread drops its own reference a moment after the answer: the next call is behind that.
    uninterrupted(threading.current_thread)
    assert answer() is None
    try:
        uninterrupted(fails)
    except LookupError as error:
        argument = weakref.ref(error.args[0])
    uninterrupted(threading.current_thread)
    assert argument() is None


PROGRAM = """
import atexit, os, sys, threading
from infobatch_client.rpc.uninterrupted import uninterrupted

def say(when, write=os.write):
    write(1, when + uninterrupted(lambda: b" answered\\n"))

class Late:
    def __del__(self, finalizing=sys.is_finalizing, say=say):
        assert finalizing()
        say(b"finalizing")

uninterrupted(threading.current_thread)
atexit.register(say, b"atexit")
late = Late()  # deleted with the interpreter
"""


def test_a_call_while_the_interpreter_ends_is_made() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "atexit answered\nfinalizing answered\n")
