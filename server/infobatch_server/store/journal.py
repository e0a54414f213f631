"""A run's journal in the database: which entries it holds, and which of them the saved segments no longer need."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from infobatch_server.state.score_batch import WINDOW
from infobatch_server.store.database import Connection
from infobatch_server.store.entries import Entry, Import, Push, encode

__all__ = ["Addition", "Freeing", "Journal", "JournalRow"]

_FREED_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class JournalRow:
    """An entry's row, without its bytes.

    Args:
        id: the row's.
        entry: the entry's number in its run, from 1.
        size_bytes: of the entry.
    """

    id: int
    entry: int
    size_bytes: int


@dataclass(eq=False)
class Journal:
    """One run's entries. Only the thread that uses the connection may change it.

    Args:
        run: the run's number.
        num_samples: N.
        segment_samples: samples of a segment.
        last_entry: the last entry's number.
        last_position: the last push's, counted without other entries.

    Attributes:
        rows: entries about some samples, in order: freed once their segments are saved.
        changes: entries that change the whole table, in order: freed once they are in every saved segment.
            No entry is freed before a segment is saved that is as new, as its counters include the entry.
        size_bytes: of the rows' entries.
        saved: int64 (segments,), the last entry in each saved segment; 0: it isn't saved.
        touched: int64 (segments,), the last entry about a sample of each segment.
    """

    run: int
    num_samples: int
    segment_samples: int
    last_entry: int = 0
    last_position: int = 0
    rows: deque[JournalRow] = field(default_factory=deque)
    changes: list[JournalRow] = field(default_factory=list)
    size_bytes: int = 0
    saved: npt.NDArray[np.int64] = field(init=False)
    touched: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        segments = -(-self.num_samples // self.segment_samples)
        self.saved, self.touched = np.zeros(segments, np.int64), np.zeros(segments, np.int64)

    @property
    def num_segments(self) -> int:
        """Segments of the run's table."""
        return len(self.saved)

    def load(self, row: JournalRow, entry: Entry) -> None:
        """Takes over a row that was read from the database."""
        self.last_entry = max(self.last_entry, row.entry)
        touched = self.segments_of(entry)
        if touched is None:
            self.changes.append(row)
            return
        self.touched[touched] = row.entry
        self.rows.append(row)
        self.size_bytes += row.size_bytes

    def to_save(self) -> list[int]:
        """The segments that lack entries about their samples."""
        return [int(segment) for segment in np.flatnonzero(self.touched > self.saved)]

    @property
    def is_counted(self) -> bool:
        """Whether a saved segment has the run's counters at its last entry."""
        return int(self.saved.max()) == self.last_entry

    def freed_rows(self, max_bytes: int) -> list[JournalRow]:
        """The oldest rows, all of whose samples are saved: as many as have `max_bytes`."""
        lacking = self.to_save()
        behind = int(self.saved[lacking].min() if lacking else self.saved.max())
        freed: list[JournalRow] = []
        size = 0
        for row in self.rows:
            if row.entry > behind or size >= max_bytes:
                break
            freed.append(row)
            size += row.size_bytes
        return freed

    def freed_changes(self) -> list[JournalRow]:
        """Changes that every segment has that was ever saved; those that never were have no sample."""
        lacking = self.to_save()
        places = self.saved[self.saved > 0].tolist() + self.saved[lacking].tolist()
        behind = min(places, default=0)
        return [row for row in self.changes if row.entry <= behind]

    def drop(self, rows: list[JournalRow], changes: list[JournalRow]) -> None:
        """Forgets freed rows and changes, after they were deleted from the database."""
        for row in rows:
            assert self.rows.popleft() is row
            self.size_bytes -= row.size_bytes
        self.changes = [row for row in self.changes if row not in changes]

    def segments_of(self, entry: Entry) -> npt.NDArray[np.int64] | None:
        """The segments of an entry's samples; None if it changes the whole table."""
        if isinstance(entry, Push):
            if self.num_segments == 1:
                return np.zeros(1, np.int64)
            touched = np.zeros(self.num_segments, bool)
            touched[entry.touched() // self.segment_samples] = True
            return np.flatnonzero(touched)
        if isinstance(entry, Import):
            stop = entry.first + len(entry.scores)
            return np.arange(entry.first // self.segment_samples, -(-stop // self.segment_samples))
        return None


class Addition:
    """An entry that is to be added to a journal: encoded here, outside of any transaction, and added within one.

    Args:
        journal: the run's.
        entry: the entry.
        next_id: gives the id of the next row.
    """

    def __init__(self, journal: Journal, entry: Entry, next_id: Callable[[], int]) -> None:
        self._journal = journal
        self._next_id = next_id
        self._kind, self._data = encode(entry, journal.num_samples)
        self._segments = journal.segments_of(entry)
        self._push = entry.batch if isinstance(entry, Push) else None
        self._touched_before: npt.NDArray[np.int64] | None = None
        self._is_done = False

    @property
    def size_bytes(self) -> int:
        """Bytes of the entry."""
        return len(self._data)

    def add(self, connection: Connection) -> int:
        """Adds the entry; returns the position of the last push."""
        journal, push = self._journal, self._push
        row = JournalRow(self._next_id(), journal.last_entry + 1, len(self._data))
        sender = (None, None, None) if push is None else (push.generation, push.client_id, push.sequence)
        connection.execute(
            "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (row.id, journal.run, row.entry, self._kind, *sender, self._data),
        )
        self._is_done = True
        journal.last_entry += 1
        journal.last_position += push is not None
        if self._segments is None:
            journal.changes.append(row)
        else:
            self._touched_before = journal.touched[self._segments].copy()
            journal.touched[self._segments] = row.entry
            journal.rows.append(row)
            journal.size_bytes += row.size_bytes
        return journal.last_position

    def undo(self) -> None:
        """Takes the entry out of the journal again, after its transaction failed."""
        journal = self._journal
        if not self._is_done:
            return
        journal.last_entry -= 1
        journal.last_position -= self._push is not None
        if self._segments is None:
            journal.changes.pop()
        else:
            assert self._touched_before is not None
            journal.touched[self._segments] = self._touched_before
            journal.size_bytes -= journal.rows.pop().size_bytes


class Freeing:
    """A step that frees a part of a journal, of at most 16 MiB, so that no push waits long behind it.

    Args:
        journal: the run's.
        generation: the run's present one, whose pushes are remembered.
    """

    def __init__(self, journal: Journal, generation: int) -> None:
        self._journal = journal
        self._generation = generation
        self._rows: list[JournalRow] = []
        self._changes: list[JournalRow] = []
        self._kept = list(journal.changes)

    def free(self, connection: Connection) -> int:
        """Deletes entries that no recovery needs any more; returns how many of them were about samples."""
        journal = self._journal
        rows, changes = journal.freed_rows(_FREED_BYTES), journal.freed_changes()
        newest: dict[bytes, list[int]] = {}
        for row in (*rows, *changes):
            sender = "SELECT client, sequence FROM journal WHERE id = ? AND generation = ?"
            for client, sequence in connection.execute(sender, (row.id, self._generation)):
                newest.setdefault(client, []).append(sequence)
            connection.execute("DELETE FROM journal WHERE id = ?", (row.id,))
        for client, sequences in newest.items():
            _remember(connection, journal.run, client, sequences)
        self._kept = journal.changes
        journal.drop(rows, changes)
        self._rows, self._changes = rows, changes
        return len(rows)

    def undo(self) -> None:
        """Takes the entries back, after the transaction failed."""
        journal = self._journal
        journal.rows.extendleft(reversed(self._rows))
        journal.size_bytes += sum(row.size_bytes for row in self._rows)
        journal.changes = self._kept


def _remember(connection: Connection, run: int, client: bytes, sequences: list[int]) -> None:
    """Remembers the newest pushes of a client, in place of their entries."""
    for sequence in islice(sorted(sequences, reverse=True), WINDOW):
        connection.execute("INSERT OR REPLACE INTO pushes VALUES (?, ?, ?)", (run, client, sequence))
    connection.execute(
        "DELETE FROM pushes WHERE run = ? AND client = ? AND sequence <= "
        f"(SELECT max(sequence) FROM pushes WHERE run = ? AND client = ?) - {WINDOW}",
        (run, client, run, client),
    )
