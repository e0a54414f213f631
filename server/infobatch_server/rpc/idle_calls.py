"""Ends calls whose clients neither send nor read: a thread of the server waits for each of them."""

from __future__ import annotations

import threading
import time

import grpc

from infobatch_server.rpc.call_pool import CallPool

__all__ = ["ClientWaits", "IdleCalls"]

_LOOK_S = 0.1
_BYTE_S = 1 / 2**19  # of patience, for each byte that a client sends or reads


class ClientWaits:
    """The waits of one call for its client. For the thread of the call.

    The first patience is less by the time that the call has waited for its thread: its client had this time to send.
    Waits use the patience up, and messages restore it by their size. So a client that sends a few bytes now and then
    loses the thread as one that sends nothing.
    """

    def __init__(self, waits: dict[int, ClientWaits], context: grpc.ServicerContext, pool: CallPool) -> None:
        self._waits = waits
        self.context = context
        self.pool = pool
        self.patience_s = max(pool.patience_s - pool.queued_s, pool.min_patience_s)
        self.since_s = 0.0

    def begin(self) -> None:
        """From now on, the call waits for its client."""
        self.since_s = time.monotonic()
        self._waits[id(self)] = self

    def end(self, num_bytes: int) -> None:
        """The call no longer waits: its client has sent or read so many bytes."""
        del self._waits[id(self)]
        left_s = self.patience_s - (time.monotonic() - self.since_s)
        self.patience_s = min(left_s + num_bytes * _BYTE_S, self.pool.patience_s)


class IdleCalls:
    """The calls that wait for their clients, and a thread that cancels those that wait too long.

    A call of a pool without a free thread is cancelled once its patience is used up; any other after `idle_s`. Its
    client sees CANCELLED, and may call again. Safe to use from many threads.

    Args:
        idle_s: seconds that a client may let a call wait for its next message, or for room for the next answer.
    """

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._waits: dict[int, ClientWaits] = {}
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="idle-calls", daemon=True)

    def start(self) -> None:
        """Starts to cancel."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._is_stopped.set()

    def waits(self, context: grpc.ServicerContext, pool: CallPool) -> ClientWaits:
        """The waits of the call that the current thread of `pool` processes."""
        return ClientWaits(self._waits, context, pool)

    def _look(self) -> None:
        while not self._is_stopped.wait(_LOOK_S):
            now_s = time.monotonic()
            waits = list(self._waits.copy().values())
            crowded = {pool: pool.take_crowded() for pool in {wait.pool for wait in waits}}
            for wait in waits:
                limit_s = min(self._idle_s, wait.patience_s) if crowded[wait.pool] else self._idle_s
                if now_s - wait.since_s > limit_s:
                    wait.context.cancel()  # type: ignore[no-untyped-call]
