"""Where runs are kept: the interface that the in-memory store has, and that a durable one takes over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from infobatch_server.state.run_state import EpochMark, RunState
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.scores.table import ScoreTable

__all__ = ["RunStore", "StoredRun"]


@dataclass(kw_only=True)
class StoredRun:
    """A run as a store gives it back.

    Args:
        run_id: 16 bytes.
        spec: what it is.
        state: of the last transaction.
        marks: of epochs that ended.
        table: the scores, up to and with `journal_position`.
        journal_position: records that were appended to this run; the next one gets this + 1.
        stored_scores: scores accepted since the run was created.
        rejected_scores: NaN and infinite ones since then.
        batches: pushes of the present generation, whose repeats are to be recognised, as (client id, sequence).
    """

    run_id: bytes
    spec: RunSpec
    state: RunState
    marks: Sequence[EpochMark]
    table: ScoreTable
    journal_position: int
    stored_scores: int = 0
    rejected_scores: int = 0
    batches: Sequence[tuple[bytes, int]] = ()


class RunStore(Protocol):
    """Keeps runs. Every method returns after what it wrote is as durable as the store makes it.

    `append` is called from many threads at once, also for one run, so that a store may put many batches into one
    commit; all other calls for a run come one after the other, and none of them during an `append` to it, but for
    `put_plan` and `get_plan`.
    """

    durable: bool
    """Whether runs survive the process."""

    def load(self) -> Iterable[StoredRun]:
        """Every run that is kept, recovered. Called once, before anything else."""

    def create(self, run_id: bytes, spec: RunSpec) -> None:
        """A new run with an empty state and no scores."""

    def amend(self, run_id: bytes, spec: RunSpec) -> None:
        """Another spec for a run."""

    def delete(self, run_id: bytes) -> None:
        """Forgets a run, its scores, plans and marks."""

    def append(self, run_id: bytes, batch: ScoreBatch) -> int:
        """Puts a batch into the run's journal.

        Returns:
            Its position: 1 for the run's first, then one more each time, without gaps.
        """

    def seed(
        self, run_id: bytes, first: int, scores: npt.NDArray[np.float32], stamps: npt.NDArray[np.uint16] | None
    ) -> None:
        """Scores of consecutive samples that were put into the table after all batches appended so far."""

    def save(self, run_id: bytes, state: RunState) -> None:
        """Replaces the state, in one transaction. Plans that the one before named and this one doesn't are dropped."""

    def rewind(self, run_id: bytes, state: RunState, stamps_to: int, marks_from: int) -> None:
        """Like `save`, and in the same transaction drops the marks of epochs >= `marks_from` and lowers the stamps
        to the start of epoch `stamps_to`, after all batches appended so far."""

    def add_mark(self, run_id: bytes, mark: EpochMark, state: RunState) -> None:
        """Like `save`, and in the same transaction puts a mark, in place of one of its generation, epoch and rank."""

    def put_plan(self, run_id: bytes, plan: EpochPlan) -> None:
        """Keeps a plan, before a state names it."""

    def get_plan(self, run_id: bytes, plan_id: str) -> EpochPlan:
        """A plan that the state names."""

    def close(self) -> None:
        """Ends what is under way. Nothing is called after it."""
