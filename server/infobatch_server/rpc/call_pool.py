"""The threads that process one kind of call, and how many of its calls are waiting for one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

__all__ = ["CallPool"]

P = ParamSpec("P")
T = TypeVar("T")


class CallPool(ThreadPoolExecutor):
    """Threads of their own for one kind of call, so that other kinds can't take them.

    Args:
        name: the kind, for the names of threads.
        threads: calls that are processed at once.
        max_waiting: further calls that may wait for a thread.
        patience_s: seconds, counted from its arrival, that a call may wait for its client while others wait for a
            thread.
        min_patience_s: the least of them that is left to a call that had to wait for its own thread; enough for a
            message that is under way.
    """

    def __init__(
        self, name: str, threads: int, *, max_waiting: int, patience_s: float, min_patience_s: float = 0.5
    ) -> None:
        super().__init__(threads, thread_name_prefix=f"grpc-{name}")
        self.name = name
        self.patience_s = patience_s
        self.min_patience_s = min_patience_s
        self.max_calls = threads + max_waiting
        self._threads_of_pool = threads
        self._count_lock = threading.Lock()
        self._num_calls = 0
        self._has_refused = False
        self._of_thread = threading.local()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Processes a call as soon as a thread is free."""
        with self._count_lock:
            self._num_calls += 1
        future = super().submit(self._process, time.monotonic(), partial(fn, *args, **kwargs))
        future.add_done_callback(self._count_end)
        return future

    @property
    def queued_s(self) -> float:
        """Seconds that the call of the current thread has waited for it; 0 in any other thread."""
        return float(getattr(self._of_thread, "queued_s", 0.0))

    @property
    def num_calls(self) -> int:
        """Calls that have a thread or wait for one."""
        return self._num_calls

    @property
    def num_waiting(self) -> int:
        """Calls that wait for a thread."""
        return max(0, self._num_calls - self._threads_of_pool)

    def admits(self) -> bool:
        """Whether one more call may wait here; if not, the pool counts as crowded until the next `take_crowded`."""
        admits = self._num_calls < self.max_calls
        self._has_refused |= not admits
        return admits

    def take_crowded(self) -> bool:
        """Whether calls wait for a thread, or were refused since the last look."""
        crowded = self._has_refused or self.num_waiting > 0
        self._has_refused = False
        return crowded

    def _process(self, arrived_s: float, process: Callable[[], T]) -> T:
        self._of_thread.queued_s = time.monotonic() - arrived_s
        return process()

    def _count_end(self, _: Future[T]) -> None:
        with self._count_lock:
            self._num_calls -= 1
