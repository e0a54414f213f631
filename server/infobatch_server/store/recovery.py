"""Recovery: a store's runs as their database and their files hold them, with the journal applied to their tables."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infobatch_server.state.run_state import EpochMark, RunState
from infobatch_server.store.database import Connection
from infobatch_server.store.entries import Behind, Push, decode
from infobatch_server.store.files import Files
from infobatch_server.store.interface import StoredRun
from infobatch_server.store.journal import Journal, JournalRow
from infobatch_server.store.records import mark_from_row, state_from_rows
from infobatch_server.store.run_files import RunFiles
from infobatch_server.store.segments import read_segment, segment_path
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.scores.table import ScoreTable

__all__ = ["Recovered", "recover"]

log = logging.getLogger(__name__)

_PROGRESS_S = 5.0
_STEP_ROWS = 1024


@dataclass(eq=False, kw_only=True)
class Recovered:
    """A run while it is recovered.

    Args:
        run_id: 16 bytes.
        spec: the run's.
        state: of the last transaction.
        marks: of ended epochs.
        journal: the entries that the database holds.
        files: the run's.
        table: the scores of its segments, then of its journal too.
        counted: the last entry that `stored` and `rejected` count.
        stored: scores accepted.
        rejected: NaN and infinite scores.
        pushes: (client id, sequence) of the present generation.
    """

    run_id: bytes
    spec: RunSpec
    state: RunState
    marks: Sequence[EpochMark]
    journal: Journal
    files: RunFiles
    table: ScoreTable
    counted: int = 0
    stored: int = 0
    rejected: int = 0
    pushes: list[tuple[bytes, int]] = field(default_factory=list)

    def apply(self, row: JournalRow, kind: int, data: bytes) -> None:
        """Applies an entry to the segments that lack it."""
        journal = self.journal
        entry = decode(kind, data, self.spec.policy.pushed_columns)
        behind = Behind(journal.saved < row.entry, journal.segment_samples)
        counts = entry.apply(self.table, behind) if behind.segments.any() else None
        if row.entry > self.counted:
            assert counts is not None
            self.stored += counts.accepted
            self.rejected += counts.non_finite
            journal.last_position += isinstance(entry, Push)
        journal.load(row, entry)

    def stored_run(self) -> StoredRun:
        """The run, after all of its entries were applied."""
        return StoredRun(
            run_id=self.run_id,
            spec=self.spec,
            state=self.state,
            marks=self.marks,
            table=self.table,
            journal_position=self.journal.last_position,
            journal_entry=self.journal.last_entry,
            stored_scores=self.stored,
            rejected_scores=self.rejected,
            batches=self.pushes,
        )


def recover(connection: Connection, folder: Path, files: Files, segment_samples: int) -> dict[bytes, Recovered]:
    """All runs of a store, by their ids; says in the log what it does.

    What a run that was never finished has left in the folder is removed, and so is what a deleted one has.

    Args:
        connection: of the store's database.
        folder: of the runs' folders.
        files: removes what is left over.
        segment_samples: samples of a segment.

    Raises:
        ServerError: a file is missing or damaged, or a run's policy isn't installed.
    """
    started = time.monotonic()
    by_number: dict[int, Recovered] = {}
    for number, run_id, spec, state in list(connection.execute("SELECT number, run_id, spec, state FROM runs")):
        by_number[number] = _load(
            connection, number, run_id, spec, state, RunFiles(folder / run_id.hex(), files), segment_samples
        )
    num_entries = _replay(connection, by_number)
    _remove_leftovers(folder, files, {run.run_id for run in by_number.values()})
    if by_number:
        log.info(
            "recovered %d runs with %d samples, and %d entries of the journal, in %.1f s",
            *(len(by_number), sum(run.table.num_samples for run in by_number.values()), num_entries),
            time.monotonic() - started,
        )
    return {run.run_id: run for run in by_number.values()}


def _load(
    connection: Connection,
    number: int,
    run_id: bytes,
    spec_row: bytes,
    state_row: str,
    files: RunFiles,
    segment_samples: int,
) -> Recovered:
    spec = files.read_spec(spec_row)
    state = state_from_rows(
        state_row, dict(connection.execute("SELECT epoch, figures FROM epochs WHERE run = ?", (number,)))
    )
    run = Recovered(
        run_id=run_id,
        spec=spec,
        state=state,
        marks=[
            mark_from_row(mark)
            for (mark,) in connection.execute(
                "SELECT mark FROM marks WHERE run = ? ORDER BY epoch, generation, rank", (number,)
            )
        ],
        journal=Journal(number, spec.num_samples, segment_samples),
        files=files,
        table=ScoreTable(spec.num_samples, spec.policy.columns),
        pushes=list(
            connection.execute("SELECT client, sequence FROM pushes WHERE run = ? ORDER BY client, sequence", (number,))
        ),
    )
    segments = list(
        connection.execute(
            "SELECT segment, entry, position, stored, rejected, crc32 FROM segments WHERE run = ?", (number,)
        )
    )
    paths = []
    for segment, entry, position, stored, rejected, crc32 in segments:
        path = segment_path(files.folder, segment, entry)
        read_segment(path, crc32, run.table, segment * segment_samples)
        paths.append(path)
        run.journal.saved[segment] = run.journal.touched[segment] = entry
        if entry > run.counted:
            run.counted = run.journal.last_entry = entry
            run.journal.last_position, run.stored, run.rejected = position, stored, rejected
    removed = files.remove_others(state.plan_ids.values(), paths)
    log.info(
        "run %s (%s): %d samples, generation %d, epoch %d; read %d segments, removed %d unfinished or old files",
        *(spec.run, run_id.hex(), spec.num_samples, state.generation, state.last_epoch, len(segments), removed),
    )
    return run


def _replay(connection: Connection, runs: dict[int, Recovered]) -> int:
    """Applies the whole journal in order; returns its number of entries. Deletes entries of deleted runs."""
    count, orphans = 0, []
    told = time.monotonic()
    rows: Iterable[tuple[int, int, int, int, int | None, bytes | None, int | None, bytes]] = connection.execute(
        "SELECT id, run, entry, kind, generation, client, sequence, data FROM journal ORDER BY id"
    )
    for id_, number, entry, kind, generation, client, sequence, data in rows:
        run = runs.get(number)
        if run is None:
            orphans.append(id_)
            continue
        run.apply(JournalRow(id_, entry, len(data)), kind, data)
        if client is not None and sequence is not None and generation == run.state.generation:
            run.pushes.append((client, sequence))
        count += 1
        if time.monotonic() - told > _PROGRESS_S:
            told = time.monotonic()
            log.info("recovering: %d entries of the journal applied", count)
    for first in range(0, len(orphans), _STEP_ROWS):
        connection.execute("BEGIN IMMEDIATE")
        for id_ in orphans[first : first + _STEP_ROWS]:
            connection.execute("DELETE FROM journal WHERE id = ?", (id_,))
        connection.execute("COMMIT")
    return count


def _remove_leftovers(folder: Path, files: Files, run_ids: set[bytes]) -> None:
    names = {run_id.hex() for run_id in run_ids}
    for path in folder.iterdir():
        if path.name not in names:
            RunFiles(path, files).remove()
            log.info("%s: removed, as no run is in it", path)
