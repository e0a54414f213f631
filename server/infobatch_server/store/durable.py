"""A store on the disk: what it has answered survives the process, the machine's crash and a power cut."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt

from infobatch_server.state.run_state import MARKED_EPOCHS, EpochMark, RunState
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_server.store.database import DISK_IS_FULL, Connect, Connection, Database, connect_sqlite
from infobatch_server.store.entries import Entry, Forget, Import, Push, Rewind
from infobatch_server.store.files import Files, LocalFiles, sync_parents
from infobatch_server.store.interface import StoredRun
from infobatch_server.store.journal import Addition, Journal
from infobatch_server.store.keeper import Keeper
from infobatch_server.store.open_run import OpenRun
from infobatch_server.store.records import epoch_rows, mark_row, state_row
from infobatch_server.store.recovery import Recovered, recover
from infobatch_server.store.run_files import RunFiles, spec_bytes
from infobatch_server.store.schema import SCHEMA, VERSION
from infobatch_server.store.segments import Capture
from infobatch_stream.errors import ServerBusyError, ServerError, TryAgainError
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.run_spec import RunSpec

__all__ = ["DurableStore"]

log = logging.getLogger(__name__)

_DATABASE = "state.db"
_RETRY_S = 1.0
_CHECK_BYTES = 2**22  # of the journal, between two wakes of the keeper


class DurableStore:
    """Runs in a folder: a journal of scores and the states in SQLite, segments of the tables and plans in files.

    Scores are durable once they are in the journal. Segments are saved now and then, so that the journal can be freed.

    Args:
        folder: the data directory; locked by its owner against a second server.
        files: writes files.
        connect: makes the database's one connection.
        segment_samples: samples of a segment, a multiple of 8.
        save_bytes: bytes of the journal, over all runs, at which segments are saved.
        max_journal_bytes: bytes of the journal at which scores are refused until segments were saved: no recovery
            applies more.
        reserve_bytes: room on the disk that is kept for saving segments when it is full.

    Raises:
        ServerError: the folder holds something else, or is of a newer version, or damaged.
    """

    durable = True

    def __init__(
        self,
        folder: Path,
        *,
        files: Files | None = None,
        connect: Connect = connect_sqlite,
        segment_samples: int = 2**22,
        save_bytes: int = 2**28,
        max_journal_bytes: int = 2**30,
        reserve_bytes: int = 2**26,
    ) -> None:
        assert segment_samples % 8 == 0
        self._files = files or LocalFiles()
        self._segment_samples = segment_samples
        self._save_bytes = save_bytes
        self._max_journal_bytes = max_journal_bytes
        self._folder = folder / "runs"
        self._database = _open(folder, self._folder, self._files, connect)
        self._runs: dict[bytes, OpenRun] = {}
        self._next_id = count(1)
        self._unchecked_bytes = 0
        self.keeper = Keeper(
            self._database,
            self._files,
            self._runs,
            folder,
            segment_samples=segment_samples,
            save_bytes=save_bytes,
            reserve_bytes=reserve_bytes,
        )

    @property
    def failure(self) -> BaseException | None:
        """The fault of the disk after which nothing more is stored; None if there was none."""
        return self._database.failure

    def on_failure(self, call: Callable[[], None]) -> None:
        """Sets what is called once, from some thread, when the disk fails."""
        self._database.on_failure = call

    def load(self) -> Iterable[StoredRun]:
        """Recovers all runs.

        Raises:
            ServerError: they can't be recovered.
            TryAgainError: the disk has failed.
        """

        def work(connection: Connection) -> dict[bytes, Recovered]:
            found = recover(connection, self._folder, self._files, self._segment_samples)
            (newest,) = next(iter(connection.execute("SELECT coalesce(max(id), 0) FROM journal")))
            self._next_id = count(newest + 1)
            return found

        with self._database.guarding():
            recovered = self._database.alone(work)
        for run_id, found in recovered.items():
            self._runs[run_id] = OpenRun(found.journal, found.files, found.state, epoch_rows(found.state))
            yield found.stored_run()

    def start(self) -> None:
        """Starts the keeper of the journal."""
        self.keeper.start()

    def follow(self, run_id: bytes, capture: Capture) -> None:
        """Says how to copy a part of a run's table."""
        self._runs[run_id].capture = capture

    def create(self, run_id: bytes, spec: RunSpec) -> None:
        """Writes the spec, then adds the run."""
        files = RunFiles(self._folder / run_id.hex(), self._files)
        state = RunState()

        def change(connection: Connection) -> int:
            connection.execute(
                "INSERT INTO runs (run_id, spec, state) VALUES (?, ?, ?)", (run_id, spec_bytes(spec), state_row(state))
            )
            (number,) = next(iter(connection.execute("SELECT last_insert_rowid()")))
            return int(number)

        try:
            with self._database.guarding():
                files.make(spec)
            number = self._database.transact(change)
        except BaseException:
            # After a fault nobody knows whether the row is there: the next start keeps or removes them.
            if self._database.failure is None:
                with self._database.guarding():
                    files.remove()
            raise
        self._runs[run_id] = OpenRun(Journal(number, spec.num_samples, self._segment_samples), files, state, {})

    def amend(self, run_id: bytes, spec: RunSpec) -> None:
        """Replaces the spec's row; the parts in the file stay."""
        number, row = self._runs[run_id].journal.run, spec_bytes(spec)
        self._database.transact(
            lambda connection: list(connection.execute("UPDATE runs SET spec = ? WHERE number = ?", (row, number)))
        )

    def delete(self, run_id: bytes) -> None:
        """Deletes the run's rows in one transaction, then its files and its journal, as far as the disk lets it."""
        run = self._runs[run_id]
        number = run.journal.run

        def change(connection: Connection) -> None:
            for table in ("epochs", "marks", "segments", "pushes"):
                connection.execute(f"DELETE FROM {table} WHERE run = ?", (number,))
            connection.execute("DELETE FROM runs WHERE number = ?", (number,))

        self._database.transact(change)
        del self._runs[run_id]
        try:
            run.remove(self._database)
        except TryAgainError as error:
            log.warning("run %s is deleted; the next start removes what is left of it: %s", run_id.hex(), error)

    def append(self, run_id: bytes, batch: ScoreBatch, take: Callable[[int], None]) -> int:
        """Adds a push to the journal."""
        return self._add(self._runs[run_id], Push(batch), take)

    def import_scores(
        self, run_id: bytes, first: int, scores: npt.NDArray[np.float32], stamps: npt.NDArray[np.uint16] | None
    ) -> None:
        """Adds imported scores to the journal."""
        self._add(self._runs[run_id], Import(first, scores, stamps))

    def forget_drops(self, run_id: bytes) -> None:
        """Adds the fact to the journal."""
        self._add(self._runs[run_id], Forget())

    def save(self, run_id: bytes, state: RunState) -> None:
        """Replaces the rows of the state that differ, then removes plans."""
        run = self._runs[run_id]
        self._change_state(run, state, lambda connection: None)

    def rewind(self, run_id: bytes, state: RunState, stamps_to: int, marks_from: int) -> None:
        """Does what `save` does, and adds the rewind to the journal; forgets the pushes of the last generation."""
        run = self._runs[run_id]
        number = run.journal.run
        addition = Addition(run.journal, Rewind(stamps_to), self._take_id)

        def change(connection: Connection) -> None:
            connection.execute("DELETE FROM marks WHERE run = ? AND epoch >= ?", (number, marks_from))
            connection.execute("DELETE FROM pushes WHERE run = ?", (number,))
            addition.add(connection)

        self._change_state(run, state, change, addition.undo)

    def add_mark(self, run_id: bytes, mark: EpochMark, state: RunState) -> None:
        """Does what `save` does, and adds a mark; drops marks that no plan waits for any more."""
        run = self._runs[run_id]
        number = run.journal.run

        def change(connection: Connection) -> None:
            place = (number, mark.epoch, mark.generation, mark.rank)
            connection.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?)", (*place, mark_row(mark)))
            connection.execute("DELETE FROM marks WHERE run = ? AND epoch <= ?", (number, mark.epoch - MARKED_EPOCHS))

        self._change_state(run, state, change)

    def put_plan(self, run_id: bytes, plan: EpochPlan) -> None:
        """Writes the plan's file."""
        run = self._runs[run_id]
        with self._database.guarding():
            run.files.write_plan(plan)
        run.plan = plan

    def get_plan(self, run_id: bytes, plan_id: str) -> EpochPlan:
        """Returns the plan that was drawn or read last, or reads it from its file."""
        run = self._runs[run_id]
        plan = run.plan
        if plan is None or plan.plan_id != plan_id:
            plan = run.plan = run.files.read_plan(plan_id)
        return plan

    def close(self) -> None:
        """Closes the database; the journal is enough for the next start."""
        self.keeper.close()
        self._database.close()

    def _take_id(self) -> int:
        return next(self._next_id)

    def _add(self, run: OpenRun, entry: Entry, take: Callable[[int], None] | None = None) -> int:
        size = self.keeper.journal_bytes
        if size >= self._max_journal_bytes:
            self.keeper.wake()
            raise ServerBusyError(
                f"the journal holds {size:,} bytes, the most that a restart may take: scores are being saved; send "
                "this again later",
                retry_after_s=_RETRY_S,
            )
        if self.keeper.is_full:
            raise ServerBusyError(DISK_IS_FULL, retry_after_s=_RETRY_S)
        addition = Addition(run.journal, entry, self._take_id)
        try:
            position = self._database.transact(addition.add, addition.undo, take)
        except ServerBusyError:
            self.keeper.meet_full_disk()
            raise
        self._unchecked_bytes += addition.size_bytes
        if size >= self._save_bytes or self._unchecked_bytes >= _CHECK_BYTES:
            self._unchecked_bytes = 0
            self.keeper.wake()
        return position

    def _change_state(
        self,
        run: OpenRun,
        state: RunState,
        change: Callable[[Connection], None],
        undo: Callable[[], None] = lambda: None,
    ) -> None:
        write = run.writes(state)

        def transaction(connection: Connection) -> None:
            write(connection)
            change(connection)

        self._database.transact(transaction, undo)
        dropped = run.adopt(state)
        with self._database.guarding():
            run.files.remove_plans(dropped)


def _open(folder: Path, runs: Path, files: Files, connect: Connect) -> Database:
    path = folder / _DATABASE
    try:
        if not path.exists() or not path.stat().st_size:
            # A new database would make all runs leftovers.
            if runs.is_dir() and any(runs.iterdir()):
                raise ServerError(
                    f"{path} is missing or empty, but {runs} holds runs: put the whole data directory back from a "
                    "copy; or remove that folder, with its runs"
                )
            sync_parents(files, folder)  # they may be new, too
        database = Database(path, version=VERSION, schema=SCHEMA, connect=connect)
        files.make_folder(runs)
        files.sync_folder(folder)
    except OSError as error:
        raise ServerError(f"{folder} can't be used: {error}") from error
    return database
