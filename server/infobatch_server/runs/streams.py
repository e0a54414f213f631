"""The streams that use a run's arrays, and the memory that they keep in use after the run has released it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from threading import Condition

from infobatch_server.runs.memory import MemoryBudget

__all__ = ["RunStreams"]


class RunStreams:
    """The streams of one run. Safe to call from many threads.

    Args:
        memory: is charged with plans that a run no longer keeps, for as long as a stream sends them.
        lock: the run's.
        plan_bytes: of a plan of the run.
    """

    def __init__(self, memory: MemoryBudget, lock: Condition, plan_bytes: int) -> None:
        self._memory = memory
        self._lock = lock
        self._plan_bytes = plan_bytes
        self._open = Counter[str]()
        self._dropped = set[str]()
        self._run_bytes = 0

    @contextmanager
    def of(self, plan_id: str, is_kept: Callable[[str], bool]) -> Iterator[None]:
        """While the context lasts, a stream sends a plan. Asks under the lock whether the run keeps it."""
        with self._lock:
            self._open[plan_id] += 1
            if not is_kept(plan_id):
                self._charge(plan_id)
        try:
            yield
        finally:
            with self._lock:
                self._open[plan_id] -= 1
                if not self._open[plan_id]:
                    del self._open[plan_id]
                    self._release(plan_id)

    @contextmanager
    def of_table(self) -> Iterator[None]:
        """While the context lasts, a stream reads or fills the score table, and holds it if the run is deleted."""
        with self.of("", lambda _: True):
            yield

    def drop(self, plan_ids: Collection[str]) -> None:
        """The run no longer keeps these plans. The caller holds the lock."""
        for plan_id in plan_ids:
            if plan_id in self._open:
                self._charge(plan_id)

    def end_run(self, num_bytes: int) -> None:
        """Releases what a deleted run weighs, once no stream sends one of its plans."""
        with self._lock:
            self._run_bytes = num_bytes
            self._release_run()

    def _charge(self, plan_id: str) -> None:
        if plan_id not in self._dropped:
            self._dropped.add(plan_id)
            self._memory.add(self._plan_bytes)

    def _release(self, plan_id: str) -> None:
        if plan_id in self._dropped:
            self._dropped.remove(plan_id)
            self._memory.release(self._plan_bytes)
        self._release_run()

    def _release_run(self) -> None:
        if not self._open:
            self._memory.release(self._run_bytes)
            self._run_bytes = 0
