"""The barrier before a plan: the ranks that have ended the previous epoch, and the time-out of those that haven't."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from infobatch_server.state.run_state import MARKED_EPOCHS, EpochMark

__all__ = ["BARRIER_TIMEOUT_S", "Barrier", "NotReady"]

BARRIER_TIMEOUT_S = 60.0
"""This long after the first request for a plan, the plan is drawn without the missing ranks."""

_MIN_RETRY_MS, _MAX_RETRY_MS = 50, 1000
_LISTED_RANKS = 1024


@dataclass(frozen=True)
class NotReady:
    """The answer to a request for a plan that isn't ready.

    Args:
        missing_ranks: ranks that have not ended the previous epoch; empty while the plan is being drawn.
        retry_after_ms: delay before the next request.
        timed_out: the time-out has passed, so the plan is drawn without the missing ranks.
    """

    missing_ranks: tuple[int, ...]
    retry_after_ms: int
    timed_out: bool = False


class Barrier:
    """Marks of ended epochs by generation and rank. Not thread-safe: its run's lock guards it.

    Args:
        clock: monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._marks: dict[int, dict[tuple[int, int], EpochMark]] = {}
        self._first_request_s: dict[int, float] = {}

    def add(self, mark: EpochMark) -> None:
        """Adds a mark; it replaces one with the same generation, epoch and rank."""
        self._marks.setdefault(mark.epoch, {})[mark.generation, mark.rank] = mark
        self._marks = {at: marks for at, marks in self._marks.items() if self.keeps(at)}

    def keeps(self, epoch: int) -> bool:
        """Whether the marks of an epoch are kept."""
        return epoch > max(self._marks, default=epoch) - MARKED_EPOCHS

    @property
    def num_marks(self) -> int:
        """Marks of all kept epochs."""
        return sum(map(len, self._marks.values()))

    def marks(self, epoch: int) -> tuple[EpochMark, ...]:
        """The marks of an epoch, of all generations."""
        return tuple(self._marks.get(epoch, {}).values())

    def rewind(self, epoch: int) -> None:
        """Drops the marks of an epoch and of later ones, and restarts the time-outs."""
        self._marks = {at: marks for at, marks in self._marks.items() if at < epoch}
        self._first_request_s.clear()

    def missing(self, epoch: int, generation: int, world_size: int) -> tuple[int, ...]:
        """The first ranks of a generation that have not ended an epoch, at most 1,024."""
        marks = self._marks.get(epoch, {})
        missing = (rank for rank in range(world_size) if (generation, rank) not in marks)
        return tuple(islice(missing, _LISTED_RANKS))

    def trained(self, last: EpochMark, world_size: int) -> int | None:
        """Samples trained in an epoch, `last` included; None while a rank of its generation is missing.

        Counts the positions before this opening of the epoch too: an earlier opening trained them, and its marks
        were dropped.
        """
        marks = self._generation_marks(last)
        if len(marks) < world_size:
            return None
        return min(mark.start_position for mark in marks) + sum(mark.counts.real for mark in marks)

    def left_out(self, last: EpochMark) -> int:
        """Samples of an epoch that its pipeline dropped, or that could not be read, as far as its ranks have said."""
        return sum(mark.counts.dropped + mark.counts.unreadable for mark in self._generation_marks(last))

    def _generation_marks(self, last: EpochMark) -> list[EpochMark]:
        """The marks of an epoch of one generation, `last` in place of an earlier one of its rank."""
        marks = {mark.rank: mark for mark in self.marks(last.epoch) if mark.generation == last.generation}
        return list({**marks, last.rank: last}.values())

    def before(self, epoch: int, generation: int, world_size: int) -> NotReady | None:
        """The ranks that delay the plan of an epoch; None if every rank has ended the previous epoch."""
        missing = self.missing(epoch - 1, generation, world_size)
        if not missing:
            return None
        now = self._clock()
        waited_s = now - self._first_request_s.setdefault(epoch, now)
        # One tenth of the waiting time so far: short while a rank may end soon, long when it takes its time.
        retry_ms = min(_MAX_RETRY_MS, max(_MIN_RETRY_MS, int(100 * waited_s)))
        return NotReady(missing, retry_ms, timed_out=waited_s >= BARRIER_TIMEOUT_S)
