"""Forks and calls: an interrupt between them isn't lost."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from infobatch_client.rpc import forks


def fork() -> None:
    if not (child := os.fork()):
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_an_interrupt_while_a_fork_waits_for_a_call_is_raised_behind_the_fork() -> None:
    """Python ignores what is raised in the handlers of a fork."""
    inside, may_end = threading.Event(), threading.Event()

    def calls() -> None:
        with forks.call():
            inside.set()
            while not forks._gate.forks:
                pass
            os.kill(os.getpid(), signal.SIGINT)
            assert may_end.wait(10)

    thread = threading.Thread(target=calls)
    thread.start()
    assert inside.wait(10)
    with pytest.raises(KeyboardInterrupt):
        fork_and_wait()
    may_end.set()
    thread.join()
    assert (forks._gate.forks, forks._gate.calls) == (0, 0)
    fork()  # and none is raised again


def fork_and_wait() -> None:
    fork()
    time.sleep(10)


def test_an_interrupt_before_a_fork_is_counted_leaves_calls_without_a_pause() -> None:
    forks._after_in_parent()
    began_s = time.monotonic()
    for _ in range(10):
        with forks.call():
            pass
    assert time.monotonic() - began_s < forks._LONGEST_WAIT_S
