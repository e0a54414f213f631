"""A store that keeps runs as long as the process lives."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from infobatch_server.state.run_state import EpochMark, RunState
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_server.store.interface import StoredRun
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.run_spec import RunSpec

__all__ = ["MemoryStore"]


class MemoryStore:
    """Hands out journal positions and keeps plans; scores, states and marks live in the runs themselves."""

    durable = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._positions: dict[bytes, int] = {}
        self._plans: dict[bytes, dict[str, EpochPlan]] = {}
        self._named: dict[bytes, frozenset[str]] = {}

    def load(self) -> Iterable[StoredRun]:
        """Nothing: no run survives."""
        return ()

    def create(self, run_id: bytes, spec: RunSpec) -> None:
        """Begins a journal at position 0."""
        with self._lock:
            self._positions[run_id] = 0
            self._plans[run_id] = {}
            self._named[run_id] = frozenset()

    def amend(self, run_id: bytes, spec: RunSpec) -> None:
        """Nothing to keep: the run has its spec."""

    def delete(self, run_id: bytes) -> None:
        """Forgets the run's plans and its position."""
        with self._lock:
            del self._positions[run_id], self._plans[run_id], self._named[run_id]

    def append(self, run_id: bytes, batch: ScoreBatch) -> int:
        """The next position."""
        with self._lock:
            self._positions[run_id] += 1
            return self._positions[run_id]

    def seed(
        self, run_id: bytes, first: int, scores: npt.NDArray[np.float32], stamps: npt.NDArray[np.uint16] | None
    ) -> None:
        """Nothing to keep: the run's table has them."""

    def save(self, run_id: bytes, state: RunState) -> None:
        """Drops the plans that the state no longer names; one that no state has named yet stays."""
        named = frozenset(state.plan_ids.values())
        with self._lock:
            for plan_id in self._named[run_id] - named:
                del self._plans[run_id][plan_id]
            self._named[run_id] = named

    def rewind(self, run_id: bytes, state: RunState, stamps_to: int, marks_from: int) -> None:
        """`save`: the run lowers the stamps of its table."""
        self.save(run_id, state)

    def add_mark(self, run_id: bytes, mark: EpochMark, state: RunState) -> None:
        """`save`: the run has its marks."""
        self.save(run_id, state)

    def put_plan(self, run_id: bytes, plan: EpochPlan) -> None:
        """Keeps the plan."""
        with self._lock:
            self._plans[run_id][plan.plan_id] = plan

    def get_plan(self, run_id: bytes, plan_id: str) -> EpochPlan:
        """The plan itself."""
        with self._lock:
            return self._plans[run_id][plan_id]

    def close(self) -> None:
        """Nothing is under way."""
