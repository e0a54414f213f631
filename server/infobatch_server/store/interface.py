"""The interface of stores, which keep runs: in memory, or durably."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from infobatch_server.state.run_state import EpochMark, RunState
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_server.store.segments import Capture
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.scores.table import ScoreTable

__all__ = ["RunStore", "StoredRun"]


@dataclass(kw_only=True)
class StoredRun:
    """A run as loaded from a store.

    Args:
        run_id: 16 bytes.
        spec: the run's spec.
        state: the state of the last transaction.
        marks: the marks of ended epochs.
        table: the scores, up to and including `journal_position`.
        journal_position: number of batches appended to this run; the next one has this position + 1.
        journal_entry: number of all entries of the run's journal: batches, imports, rewinds and forgotten drops.
        stored_scores: scores accepted since the run was created.
        rejected_scores: NaN and infinite scores since the run was created.
        batches: (client id, sequence) of the pushes of the current generation, to recognise repeats.
    """

    run_id: bytes
    spec: RunSpec
    state: RunState
    marks: Sequence[EpochMark]
    table: ScoreTable
    journal_position: int
    journal_entry: int = 0
    stored_scores: int = 0
    rejected_scores: int = 0
    batches: Sequence[tuple[bytes, int]] = ()


class RunStore(Protocol):
    """Keeps runs. A method returns when its changes are as durable as the store makes them.

    Many threads call `append` at once, also for the same run, so that a store may commit many batches together. All
    other calls for a run are sequential, and, except `put_plan` and `get_plan`, never overlap with an `append` to it.
    """

    durable: bool
    """Whether runs survive the process."""

    def load(self) -> Iterable[StoredRun]:
        """Loads all runs, after recovery. Called once, before any other method."""

    def start(self) -> None:
        """Begins the upkeep that a store does beside its calls. Called once, after `load`."""

    def follow(self, run_id: bytes, capture: Capture) -> None:
        """Says how to copy a part of the table of a run that was loaded or created."""

    def create(self, run_id: bytes, spec: RunSpec) -> None:
        """Creates a run with an empty state and no scores."""

    def amend(self, run_id: bytes, spec: RunSpec) -> None:
        """Replaces the spec of a run."""

    def delete(self, run_id: bytes) -> None:
        """Deletes a run with its scores, plans and marks."""

    def append(self, run_id: bytes, batch: ScoreBatch, take: Callable[[int], None]) -> int:
        """Appends a batch to the run's journal.

        Args:
            run_id: the run.
            batch: the batch.
            take: called with the position as soon as the batch is in the journal, perhaps by the thread of another
                call, and not in the order of the positions.

        Returns:
            The position of the batch: 1 for the run's first batch, then consecutive.
        """

    def import_scores(
        self, run_id: bytes, first: int, scores: npt.NDArray[np.float32], stamps: npt.NDArray[np.uint16] | None
    ) -> None:
        """Records scores of consecutive samples, to be imported into the table after all batches appended so far."""

    def forget_drops(self, run_id: bytes) -> None:
        """Records that the dropped samples of all batches appended so far are forgotten."""

    def save(self, run_id: bytes, state: RunState) -> None:
        """Replaces the state in one transaction, and drops the plans that only the previous state names."""

    def rewind(self, run_id: bytes, state: RunState, stamps_to: int, marks_from: int) -> None:
        """Like `save`, and in the same transaction drops the marks of epochs >= `marks_from` and lowers the stamps
        to the start of epoch `stamps_to`, after all batches appended so far."""

    def add_mark(self, run_id: bytes, mark: EpochMark, state: RunState) -> None:
        """Like `save`, and in the same transaction adds a mark; it replaces one with its generation, epoch and rank."""

    def put_plan(self, run_id: bytes, plan: EpochPlan) -> None:
        """Keeps a plan, before a state names it."""

    def get_plan(self, run_id: bytes, plan_id: str) -> EpochPlan:
        """Returns a plan that the state names."""

    def close(self) -> None:
        """Completes pending work. No method is called afterwards."""
