"""A run that a durable store holds open: its journal, its files, and the rows that its state has now."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from infobatch_server.state.run_state import RunState
from infobatch_server.store.database import Connection, Database
from infobatch_server.store.journal import Journal
from infobatch_server.store.records import epoch_rows, state_row
from infobatch_server.store.run_files import RunFiles
from infobatch_server.store.segments import Capture
from infobatch_stream.plan.epoch_plan import EpochPlan

__all__ = ["OpenRun"]

_STEP_ROWS = 1024


@dataclass(eq=False)
class OpenRun:
    """One run.

    Args:
        journal: its entries.
        files: its files.
        state: of the last transaction.
        figures: the rows of `epochs`, by epoch.
        saving: held while a segment is saved, and while the run's files are removed.
        capture: copies a part of its table; None before somebody holds the table.
        plan: the plan that was asked for last.
        is_deleted: nothing more may be written.
    """

    journal: Journal
    files: RunFiles
    state: RunState
    figures: dict[int, str]
    saving: threading.Lock = field(default_factory=threading.Lock)
    capture: Capture | None = None
    plan: EpochPlan | None = None
    is_deleted: bool = False

    def writes(self, state: RunState) -> Callable[[Connection], None]:
        """A change that replaces the rows of the state by those of another one."""
        number, row, figures = self.journal.run, state_row(state), epoch_rows(state)
        changed = [(number, epoch, text) for epoch, text in figures.items() if self.figures.get(epoch) != text]
        gone = [(number, epoch) for epoch in self.figures.keys() - figures.keys()]

        def change(connection: Connection) -> None:
            connection.execute("UPDATE runs SET state = ? WHERE number = ?", (row, number))
            for values in changed:
                connection.execute("INSERT OR REPLACE INTO epochs VALUES (?, ?, ?)", values)
            for place in gone:
                connection.execute("DELETE FROM epochs WHERE run = ? AND epoch = ?", place)

        return change

    def adopt(self, state: RunState) -> set[str]:
        """Takes over a state whose rows were written; returns the ids of plans that no state names any more."""
        dropped = set(self.state.plan_ids.values()) - set(state.plan_ids.values())
        self.state, self.figures = state, epoch_rows(state)
        if self.plan is not None and self.plan.plan_id in dropped:
            self.plan = None
        return dropped

    def remove(self, database: Database) -> None:
        """Removes the files of a run that is deleted, and its journal in steps.

        Raises:
            TryAgainError: the disk is full or has failed; the next start removes the rest.
        """
        with self.saving:
            self.is_deleted = True
            self.plan = None
            with database.guarding():
                self.files.remove()
        journal = self.journal
        while rows := [*journal.changes, *journal.rows][:_STEP_ROWS]:
            ids = [(row.id,) for row in rows]

            def free(connection: Connection, ids: list[tuple[int]] = ids) -> None:
                for id_ in ids:
                    connection.execute("DELETE FROM journal WHERE id = ?", id_)

            database.transact(free)
            changes = [row for row in rows if row in journal.changes]
            journal.drop(rows[len(changes) :], changes)
