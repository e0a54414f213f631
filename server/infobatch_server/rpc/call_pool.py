"""The threads that process one kind of call, and how many of its calls are waiting for one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
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
        patience_s: seconds that a call may keep a thread idle while others wait for one.
    """

    def __init__(self, name: str, threads: int, *, max_waiting: int, patience_s: float) -> None:
        super().__init__(threads, thread_name_prefix=f"grpc-{name}")
        self.name = name
        self.patience_s = patience_s
        self.max_calls = threads + max_waiting
        self._threads_of_pool = threads
        self._count_lock = threading.Lock()
        self._num_calls = 0
        self._has_refused = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Processes a call as soon as a thread is free."""
        with self._count_lock:
            self._num_calls += 1
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._count_end)
        return future

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

    def _count_end(self, _: Future[T]) -> None:
        with self._count_lock:
            self._num_calls -= 1
