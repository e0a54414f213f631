"""Feeds scores into a run's table: first into the journal, then into the table, in the journal's order.

A draw pauses the feed while it reads the table: batches that arrive meanwhile are journalled and answered, and
applied after the draw. A rewind has exclusive access: it waits until no batch is pending, and blocks new ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from infobatch_server.runs.memory import MemoryBudget
from infobatch_server.runs.push_window import PushWindow
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_server.store.interface import RunStore
from infobatch_server.store.segments import Captured
from infobatch_stream.errors import ServerBusyError
from infobatch_stream.scores.table import ScoreTable, UpdateCounts

__all__ = ["PushOutcome", "ScoreFeed", "max_clients"]

T = TypeVar("T")

_SPARE_CLIENTS = 1024


def max_clients(world_size: int) -> int:
    """Client ids that a generation may use: two for each rank, and some for loaders that are made anew."""
    return 2 * world_size + _SPARE_CLIENTS


@dataclass(frozen=True)
class PushOutcome:
    """The outcome of a push; if a draw paused the feed, `counts` is a prediction against the table at that time."""

    counts: UpdateCounts
    duplicate: bool
    journal_position: int


@dataclass
class _PendingBatch:
    batch: ScoreBatch
    charged: int  # bytes, if it came while a draw paused the feed
    counts: UpdateCounts | None = None


class ScoreFeed:
    """One run's journal, push windows and table.

    Args:
        run_id: 16 bytes.
        store: keeps the journal.
        table: the run's scores; a reader must hold `lock`, or `pause` the feed.
        position: the last journal position that is in `table`.
        entry: the last entry of the journal that is in `table`: pushes and all other changes.
        lock: guards the feed and the run's state; notified of every change that a thread may wait for.
        max_pending_bytes: bytes of batches that may wait for the end of a draw.
        memory: of the whole server, which these bytes are charged to.
        world_size: ranks of the current generation.
        stored_scores: scores accepted so far.
        rejected_scores: NaN and infinite scores so far.
    """

    def __init__(
        self,
        run_id: bytes,
        store: RunStore,
        table: ScoreTable,
        *,
        position: int,
        entry: int = 0,
        lock: threading.Condition,
        max_pending_bytes: int,
        memory: MemoryBudget,
        world_size: int = 1,
        stored_scores: int = 0,
        rejected_scores: int = 0,
    ) -> None:
        self.table = table
        self.applied_position = position
        self.applied_entry = entry
        self.stored_scores = stored_scores
        self.rejected_scores = rejected_scores
        self.stale_scores = 0
        self._run_id = run_id
        self._store = store
        self._lock = lock
        self._max_pending_bytes = max_pending_bytes
        self._pending_bytes = 0
        self._memory = memory
        self._windows: dict[bytes, PushWindow] = {}
        self._max_clients = max_clients(world_size)
        self._pending: dict[int, _PendingBatch] = {}
        self._num_appending = 0
        self._is_exclusive = False
        self.is_paused = False

    def push(self, batch: ScoreBatch, admit: Callable[[], None]) -> PushOutcome:
        """Stores a batch once, even if it is sent several times.

        Args:
            batch: a valid batch.
            admit: called under the lock before anything changes; raises an error to reject the batch.

        Raises:
            ServerBusyError: too many bytes wait for the end of a draw, or too many client ids were used.
            ConfigError: a push so far behind its client's newest that nobody knows whether it was stored.
        """
        with self._lock:
            self._lock.wait_for(lambda: not (self._is_exclusive or self._is_pending(batch)))
            admit()
            window = self._window_of(batch.client_id)
            if window.is_stored(batch.sequence):
                return PushOutcome(UpdateCounts(), duplicate=True, journal_position=self.applied_position)
            charged = batch.nbytes if self.is_paused else 0
            over = charged and self._pending_bytes + charged > self._max_pending_bytes
            if over or not self._memory.charge(charged):
                raise ServerBusyError(
                    f"{self._pending_bytes} bytes of scores wait for the end of a draw; send this push again later"
                )
            self._pending_bytes += batch.nbytes
            self._num_appending += 1
            window.begin(batch.sequence)
        pending = _PendingBatch(batch, charged)

        def take(position: int) -> None:
            with self._lock:
                window.end(batch.sequence, stored=True)
                self._pending[position] = pending
                self._num_appending -= 1
                self._apply_ready()
                self._lock.notify_all()

        try:
            position = self._store.append(self._run_id, batch, take)
        except BaseException:
            with self._lock:
                window.end(batch.sequence, stored=False)
                self._pending_bytes -= batch.nbytes
                self._memory.release(charged)
                self._num_appending -= 1
                self._lock.notify_all()
            raise
        counts = pending.counts
        if counts is None:  # a draw is going on, or earlier batches have not come back from the store yet
            with self._lock:
                self._lock.wait_for(lambda: self.is_paused or pending.counts is not None)
                counts = pending.counts or self._predict_counts(batch)
        return PushOutcome(counts, duplicate=False, journal_position=position)

    def pause(self) -> None:
        """Stops applying batches until `resume`, so that a draw needs no lock. The caller holds `lock`."""
        assert not self.is_paused
        self.is_paused = True

    def resume(self) -> None:
        """Applies the batches that arrived since `pause`. The caller holds `lock`."""
        self.is_paused = False
        self._apply_ready()
        self._lock.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds `lock`, with no batch pending and no draw running, for other changes to the table."""
        with self._lock:
            self._lock.wait_for(lambda: not self._is_exclusive)
            self._is_exclusive = True
            try:
                self._lock.wait_for(lambda: not (self.is_paused or self._num_appending or self._pending))
                yield
            finally:
                self._is_exclusive = False
                self._lock.notify_all()

    def capture(self, first: int, stop: int) -> Captured:
        """A consistent copy of a part of the table."""
        with self._lock:
            return Captured(
                part=self.table.copy(first, stop),
                entry=self.applied_entry,
                position=self.applied_position,
                stored=self.stored_scores,
                rejected=self.rejected_scores,
            )

    def change(self, change: Callable[[ScoreTable], T]) -> T:
        """Makes a change to the table that the store has recorded. The caller is in `exclusive`."""
        self.applied_entry += 1
        return change(self.table)

    def forget_clients(self, world_size: int) -> None:
        """Drops the windows of the last generation; the next has `world_size` ranks. The caller is in `exclusive`."""
        self._windows.clear()
        self._max_clients = max_clients(world_size)

    def remember(self, client_id: bytes, sequence: int) -> None:
        """Marks a push of the current generation as stored, after recovery."""
        self._windows.setdefault(client_id, PushWindow()).end(sequence, stored=True)

    def _window_of(self, client_id: bytes) -> PushWindow:
        window = self._windows.get(client_id)
        if window is None:
            # A window may not be dropped while its pusher lives: it keeps a repeated push from being stored twice.
            if len(self._windows) >= self._max_clients:
                raise ServerBusyError(
                    f"{len(self._windows)} client ids have pushed scores in this generation, the most that its job may "
                    "use: a pusher keeps its client id as long as it lives; attach again for more"
                )
            window = self._windows[client_id] = PushWindow()
        return window

    def _is_pending(self, batch: ScoreBatch) -> bool:
        window = self._windows.get(batch.client_id)
        return window is not None and window.is_pending(batch.sequence)

    def _apply_ready(self) -> None:
        while not self.is_paused and (pending := self._pending.pop(self.applied_position + 1, None)):
            batch = pending.batch
            if batch.dropped is not None:  # before the scores, which take their samples back
                self.table.dropped.add(batch.dropped)
            pending.counts = self.table.update(batch.epoch, batch.indices, batch.scores, batch.columns)
            self.applied_position += 1
            self.applied_entry += 1
            self._pending_bytes -= batch.nbytes
            self._memory.release(pending.charged)
            self.stored_scores += pending.counts.accepted
            self.rejected_scores += pending.counts.non_finite
            self.stale_scores += pending.counts.stale

    def _predict_counts(self, batch: ScoreBatch) -> UpdateCounts:
        finite = np.isfinite(batch.scores)
        fresh = self.table.stamp[batch.indices] <= batch.epoch + 1
        accepted = int(np.count_nonzero(finite & fresh))
        scored = int(np.count_nonzero(finite))
        return UpdateCounts(accepted, non_finite=len(batch.scores) - scored, stale=scored - accepted)
