"""A store in memory, whose runs end with the process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from infobatch_server.state.run_state import EpochMark, RunState
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_server.store.interface import StoredRun
from infobatch_server.store.segments import Capture
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.run_spec import RunSpec

__all__ = ["MemoryStore"]


class MemoryStore:
    """Assigns journal positions and keeps plans; the runs themselves hold scores, states and marks."""

    durable = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._positions: dict[bytes, int] = {}
        self._plans: dict[bytes, dict[str, EpochPlan]] = {}
        self._plan_ids: dict[bytes, frozenset[str]] = {}

    def load(self) -> Iterable[StoredRun]:
        """No runs: none survives the process."""
        return ()

    def start(self) -> None:
        """Does nothing: there is no upkeep."""

    def follow(self, run_id: bytes, capture: Capture) -> None:
        """Does nothing: no part of a table is saved."""

    def create(self, run_id: bytes, spec: RunSpec) -> None:
        """Starts a journal at position 0."""
        with self._lock:
            self._positions[run_id] = 0
            self._plans[run_id] = {}
            self._plan_ids[run_id] = frozenset()

    def amend(self, run_id: bytes, spec: RunSpec) -> None:
        """Does nothing: the run holds its spec."""

    def delete(self, run_id: bytes) -> None:
        """Deletes the run's plans and its position."""
        with self._lock:
            del self._positions[run_id], self._plans[run_id], self._plan_ids[run_id]

    def append(self, run_id: bytes, batch: ScoreBatch, take: Callable[[int], None]) -> int:
        """Returns the next position."""
        with self._lock:
            position = self._positions[run_id] = self._positions[run_id] + 1
        take(position)
        return position

    def import_scores(
        self, run_id: bytes, first: int, scores: npt.NDArray[np.float32], stamps: npt.NDArray[np.uint16] | None
    ) -> None:
        """Does nothing: the run's table holds the scores."""

    def forget_drops(self, run_id: bytes) -> None:
        """Does nothing: the run's table holds them."""

    def save(self, run_id: bytes, state: RunState) -> None:
        """Drops the plans that only the previous state names; a plan that no state has named yet stays."""
        plan_ids = frozenset(state.plan_ids.values())
        with self._lock:
            for plan_id in self._plan_ids[run_id] - plan_ids:
                del self._plans[run_id][plan_id]
            self._plan_ids[run_id] = plan_ids

    def rewind(self, run_id: bytes, state: RunState, stamps_to: int, marks_from: int) -> None:
        """The same as `save`: the run lowers the stamps of its table."""
        self.save(run_id, state)

    def add_mark(self, run_id: bytes, mark: EpochMark, state: RunState) -> None:
        """The same as `save`: the run holds its marks."""
        self.save(run_id, state)

    def put_plan(self, run_id: bytes, plan: EpochPlan) -> None:
        """Keeps the plan."""
        with self._lock:
            self._plans[run_id][plan.plan_id] = plan

    def get_plan(self, run_id: bytes, plan_id: str) -> EpochPlan:
        """Returns the plan."""
        with self._lock:
            return self._plans[run_id][plan_id]

    def close(self) -> None:
        """Does nothing: no work is pending."""
