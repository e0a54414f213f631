"""The way of scores into a run's table: journal first, then the table, in the journal's order.

A draw holds the table still while it reads it: batches that arrive meanwhile are journalled and answered, and
applied after it. A rewind waits until nothing is on the way, and nothing may set out until it is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from infobatch_server.runs.push_window import PushWindow
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_server.store.interface import RunStore
from infobatch_stream.errors import ServerBusyError
from infobatch_stream.scores.table import ScoreTable, UpdateCounts

__all__ = ["PushOutcome", "ScoreFeed"]


@dataclass(frozen=True)
class PushOutcome:
    """What became of a push; counts are those of the table as it stood, where a draw held the batch back."""

    counts: UpdateCounts
    duplicate: bool
    journal_position: int


@dataclass
class _Waiting:
    batch: ScoreBatch
    counts: UpdateCounts | None = None


class ScoreFeed:
    """One run's journal, push windows and table.

    Args:
        run_id: 16 bytes.
        store: keeps the journal.
        table: what batches are applied to; whoever reads it holds `turn`, or the table by `hold`.
        position: the journal position that `table` stands at.
        turn: guards this and the run's state; notified whenever something that may be waited for has changed.
        max_held_bytes: of batches that wait for the end of a draw.
        stored_scores: accepted so far.
        rejected_scores: NaN and infinite so far.
    """

    def __init__(
        self,
        run_id: bytes,
        store: RunStore,
        table: ScoreTable,
        *,
        position: int,
        turn: threading.Condition,
        max_held_bytes: int,
        stored_scores: int = 0,
        rejected_scores: int = 0,
    ) -> None:
        self.table = table
        self.applied_position = position
        self.stored_scores = stored_scores
        self.rejected_scores = rejected_scores
        self.stale_scores = 0
        self._run_id = run_id
        self._store = store
        self._turn = turn
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0
        self._windows: dict[bytes, PushWindow] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._on_the_way = 0
        self._quiet = False
        self.held = False

    def push(self, batch: ScoreBatch, admit: Callable[[], None]) -> PushOutcome:
        """Stores a batch once, however often it is sent.

        Args:
            batch: checked.
            admit: called under the lock before anything changes; raises where the batch has come too late.

        Raises:
            ServerBusyError: too much is waiting for the end of a draw.
        """
        with self._turn:
            self._turn.wait_for(lambda: not (self._quiet or self._is_under_way(batch)))
            admit()
            window = self._windows.setdefault(batch.client_id, PushWindow())
            if window.is_stored(batch.sequence):
                return PushOutcome(UpdateCounts(), duplicate=True, journal_position=self.applied_position)
            if self.held and self._held_bytes + batch.nbytes > self._max_held_bytes:
                raise ServerBusyError(
                    f"{self._held_bytes} bytes of scores wait for the end of a draw; send this push again later"
                )
            self._held_bytes += batch.nbytes
            self._on_the_way += 1
            window.begin(batch.sequence)
        try:
            position = self._store.append(self._run_id, batch)
        except BaseException:
            with self._turn:
                window.end(batch.sequence, stored=False)
                self._held_bytes -= batch.nbytes
                self._on_the_way -= 1
                self._turn.notify_all()
            raise
        with self._turn:
            window.end(batch.sequence, stored=True)
            waiting = self._waiting[position] = _Waiting(batch)
            self._on_the_way -= 1
            self._apply_ready()
            self._turn.notify_all()
            # Batches before this one may still be on the way back from the store.
            self._turn.wait_for(lambda: self.held or waiting.counts is not None)
            counts = waiting.counts or self._foretell(batch)
            return PushOutcome(counts, duplicate=False, journal_position=position)

    def hold(self) -> None:
        """Keeps the table as it is until `release`, for a draw without the lock. `turn` is held."""
        assert not self.held
        self.held = True

    def release(self) -> None:
        """Applies what arrived since `hold`. `turn` is held."""
        self.held = False
        self._apply_ready()
        self._turn.notify_all()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Holds `turn` while no batch is on the way and no draw goes on: for what changes the table otherwise."""
        with self._turn:
            self._turn.wait_for(lambda: not self._quiet)
            self._quiet = True
            try:
                self._turn.wait_for(lambda: not (self.held or self._on_the_way or self._waiting))
                yield
            finally:
                self._quiet = False
                self._turn.notify_all()

    def forget_clients(self) -> None:
        """Drops the windows of a generation that is over. Called within `quiet`."""
        self._windows.clear()

    def remember(self, client_id: bytes, sequence: int) -> None:
        """Marks a push of the present generation as stored, as recovery found it."""
        self._windows.setdefault(client_id, PushWindow()).end(sequence, stored=True)

    def _is_under_way(self, batch: ScoreBatch) -> bool:
        window = self._windows.get(batch.client_id)
        return window is not None and window.is_under_way(batch.sequence)

    def _apply_ready(self) -> None:
        while not self.held and (waiting := self._waiting.pop(self.applied_position + 1, None)):
            batch = waiting.batch
            waiting.counts = self.table.update(batch.epoch, batch.indices, batch.scores, batch.columns)
            self.applied_position += 1
            self._held_bytes -= batch.nbytes
            self.stored_scores += waiting.counts.accepted
            self.rejected_scores += waiting.counts.non_finite
            self.stale_scores += waiting.counts.stale

    def _foretell(self, batch: ScoreBatch) -> UpdateCounts:
        finite = np.isfinite(batch.scores)
        fresh = self.table.stamp[batch.indices] <= batch.epoch + 1
        accepted = int(np.count_nonzero(finite & fresh))
        scored = int(np.count_nonzero(finite))
        return UpdateCounts(accepted, non_finite=len(batch.scores) - scored, stale=scored - accepted)
