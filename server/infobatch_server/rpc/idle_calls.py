"""Ends calls whose clients neither send nor read: a thread of the server waits for each of them."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

import grpc

from infobatch_server.rpc.call_pool import CallPool

__all__ = ["IdleCalls"]

_LOOK_S = 0.25


class _Wait(NamedTuple):
    context: grpc.ServicerContext
    pool: CallPool
    since_s: float


class IdleCalls:
    """The calls that wait for their clients, and a thread that cancels those that wait too long.

    A call of a pool without a free thread is cancelled after the pool's `patience_s`; any other after `idle_s`. Its
    client sees CANCELLED, and may call again. Safe to use from many threads.

    Args:
        idle_s: seconds that a client may let a call wait for its next message, or for room for the next answer.
    """

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._waits: dict[int, _Wait] = {}
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="idle-calls", daemon=True)

    def start(self) -> None:
        """Starts to cancel."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._is_stopped.set()

    def begin(self, context: grpc.ServicerContext, pool: CallPool) -> None:
        """From now on, the call waits for its client."""
        self._waits[id(context)] = _Wait(context, pool, time.monotonic())

    def end(self, context: grpc.ServicerContext) -> None:
        """The call no longer waits."""
        del self._waits[id(context)]

    def _look(self) -> None:
        while not self._is_stopped.wait(_LOOK_S):
            now_s = time.monotonic()
            waits = list(self._waits.copy().values())
            crowded = {pool: pool.take_crowded() for pool in {wait.pool for wait in waits}}
            for wait in waits:
                limit_s = min(self._idle_s, wait.pool.patience_s) if crowded[wait.pool] else self._idle_s
                if now_s - wait.since_s > limit_s:
                    wait.context.cancel()  # type: ignore[no-untyped-call]
