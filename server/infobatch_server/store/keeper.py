"""Keeps a durable store's journal short: saves segments, frees entries, empties the WAL, and gets by on a full disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from infobatch_server.store.database import Connection, Database
from infobatch_server.store.files import Files
from infobatch_server.store.journal import Freeing
from infobatch_server.store.open_run import OpenRun
from infobatch_server.store.segments import segment_path, write_segment
from infobatch_stream.errors import ServerBusyError, TryAgainError

__all__ = ["Keeper"]

log = logging.getLogger(__name__)

_WAL_BYTES = 2**24
_RETRY_S = 1.0


class Keeper:
    """The upkeep of a store. `start` does it in a thread of its own; without, its owner calls `keep`.

    While the disk is full, scores are refused. A file of the disk's own size holds room in reserve: it is given up so
    that segments can be saved, which frees the journal, and scores are taken again once it is back.

    Args:
        database: the store's.
        files: writes files.
        runs: the store's runs by id; they change under it.
        folder: of the reserve.
        segment_samples: samples of a segment.
        save_bytes: bytes of the journal at which segments are saved.
        reserve_bytes: size of the reserve.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        runs: Mapping[bytes, OpenRun],
        folder: Path,
        *,
        segment_samples: int,
        save_bytes: int,
        reserve_bytes: int,
    ) -> None:
        self._database = database
        self._files = files
        self._runs = runs
        self._reserve = folder / "reserve"
        self._segment_samples = segment_samples
        self._save_bytes = save_bytes
        self._reserve_bytes = reserve_bytes
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.is_full = False
        """The disk was full, and there is no reserve since."""

    @property
    def journal_bytes(self) -> int:
        """Bytes of all entries in the journal that are about samples."""
        return sum(run.journal.size_bytes for run in list(self._runs.values()))

    def start(self) -> None:
        """Makes the reserve, and starts the thread. A disk without room for it is full.

        Raises:
            TryAgainError: the disk has failed.
        """
        try:
            with self._database.guarding():
                self._reallocate()
        except ServerBusyError:
            self.meet_full_disk()
        self._thread = threading.Thread(target=self._run, name="infobatch-store-keeper", daemon=True)
        self._thread.start()
        self.wake()

    def wake(self) -> None:
        """Has the thread look whether there is something to do."""
        self._wake.set()

    def meet_full_disk(self) -> None:
        """Refuses scores until there is room again."""
        if not self.is_full:
            log.warning("the disk of the data directory is full: scores are refused until there is room")
        self.is_full = True
        self.wake()

    def close(self) -> None:
        """Ends the thread, after what it is doing."""
        self._stopping = True
        self.wake()
        if self._thread is not None:
            self._thread.join()

    def keep(self) -> None:
        """Does what is due.

        Raises:
            ServerBusyError: the disk is full.
            TryAgainError: the disk has failed.
        """
        if self.is_full:
            self._get_by()
        elif self.journal_bytes >= self._save_bytes:
            self.save_scores()
        elif self._database.wal_bytes >= _WAL_BYTES:
            self._database.checkpoint()

    def save_scores(self) -> None:
        """Saves the segments of the run with the most bytes in the journal, frees these, and empties the WAL.

        Raises:
            ServerBusyError: the disk is full.
            TryAgainError: the disk has failed.
        """
        run_id, run = max(list(self._runs.items()), key=lambda item: item[1].journal.size_bytes, default=(b"", None))
        if run is None:
            return
        journal = run.journal
        for segment in self._database.alone(lambda _: journal.to_save() or [0] * (not journal.is_counted)):
            self.save_segment(run_id, segment)
        self.free_journal(run_id)
        self._database.checkpoint()

    def save_segment(self, run_id: bytes, segment: int) -> None:
        """Saves one segment of a run's table; does nothing if the run is deleted meanwhile.

        Raises:
            ServerBusyError: the disk is full.
            TryAgainError: the disk has failed.
        """
        run = self._runs.get(run_id)
        if run is None or run.capture is None:
            return
        journal = run.journal
        first = segment * self._segment_samples
        # Before the lock: whoever deletes the run holds the lock of its table, and waits for this one.
        captured = run.capture(first, min(first + self._segment_samples, journal.num_samples))
        with run.saving:
            old = int(journal.saved[segment])
            if run.is_deleted or captured.entry == old:
                return
            with self._database.guarding():
                saved = write_segment(self._files, segment_path(run.files.folder, segment, captured.entry), captured)
            row = (journal.run, segment, saved.entry, saved.position, saved.stored, saved.rejected, saved.crc32)

            def change(connection: Connection) -> None:
                connection.execute("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)", row)

            self._database.transact(change)
            journal.saved[segment] = captured.entry
            if old:
                with self._database.guarding():
                    self._files.remove(segment_path(run.files.folder, segment, old))

    def free_journal(self, run_id: bytes) -> None:
        """Deletes the entries of a run that its saved segments no longer need, in steps.

        Raises:
            ServerBusyError: the disk is full.
            TryAgainError: the disk has failed.
        """
        run = self._runs.get(run_id)
        while run is not None and not run.is_deleted:
            step = Freeing(run.journal, run.state.generation)
            if not self._database.transact(step.free, step.undo):
                return

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(_RETRY_S if self.is_full else None)
            self._wake.clear()
            try:
                self.keep()
            except ServerBusyError:
                self.meet_full_disk()
            except TryAgainError:
                return  # the disk has failed, and the server ends
            except Exception as error:  # a journal that nobody frees would soon refuse all scores
                log.exception("the journal can't be kept short")
                self._database.fail(error)
                return

    def _get_by(self) -> None:
        """Frees the journal with the room of the reserve, and takes scores again once the reserve is back."""
        with self._database.guarding():
            self._files.remove(self._reserve)
        if self.journal_bytes:
            self.save_scores()
        else:
            self._database.checkpoint()
        with self._database.guarding():
            self._reallocate()
        self.is_full = False
        log.info("the disk of the data directory has room again")

    def _reallocate(self) -> None:
        try:
            self._files.allocate(self._reserve, self._reserve_bytes)
        except OSError:
            self._files.remove(self._reserve)
            raise
