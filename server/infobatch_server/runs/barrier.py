"""The barrier before a plan: which ranks have ended the epoch before, and since when a plan is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from infobatch_server.state.run_state import EpochMark

__all__ = ["BARRIER_TIMEOUT_S", "Barrier", "NotReady"]

BARRIER_TIMEOUT_S = 60.0
"""A plan goes out this long after it was first asked for, whoever is missing."""

_MIN_RETRY_MS, _MAX_RETRY_MS = 50, 1000
_LISTED_RANKS = 1024


@dataclass(frozen=True)
class NotReady:
    """A plan that can't be had yet.

    Args:
        missing_ranks: ranks that have not ended the epoch before; none where the plan is being drawn.
        retry_after_ms: when to ask again.
        timed_out: the time-out has passed: the plan goes out without them.
    """

    missing_ranks: tuple[int, ...]
    retry_after_ms: int
    timed_out: bool = False


class Barrier:
    """Marks of ended epochs by generation and rank. Not thread-safe: its run's lock guards it.

    Args:
        clock: seconds that only rise.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._marks: dict[int, dict[tuple[int, int], EpochMark]] = {}
        self._first_asked: dict[int, float] = {}

    def add(self, mark: EpochMark) -> None:
        """Puts a mark, in place of one of its generation, epoch and rank."""
        self._marks.setdefault(mark.epoch, {})[mark.generation, mark.rank] = mark

    def marks(self, epoch: int) -> tuple[EpochMark, ...]:
        """Every mark of an epoch, of all generations."""
        return tuple(self._marks.get(epoch, {}).values())

    def rewind(self, epoch: int) -> None:
        """Drops the marks of an epoch and of later ones, and forgets who is waiting."""
        self._marks = {at: marks for at, marks in self._marks.items() if at < epoch}
        self._first_asked.clear()

    def missing(self, epoch: int, generation: int, world_size: int) -> tuple[int, ...]:
        """Ranks of a generation that have not ended an epoch."""
        marks = self._marks.get(epoch, {})
        return tuple(rank for rank in range(world_size) if (generation, rank) not in marks)

    def trained(self, last: EpochMark, world_size: int) -> int | None:
        """Samples trained in an epoch, once `last` is put; None while a rank of its generation is missing.

        Positions before this opening of the epoch were trained by an earlier one, whose marks are gone.
        """
        marks = {mark.rank: mark for mark in self.marks(last.epoch) if mark.generation == last.generation}
        marks[last.rank] = last
        if len(marks) < world_size:
            return None
        start = min(mark.start_position for mark in marks.values())
        return start + sum(mark.counts.real for mark in marks.values())

    def before(self, epoch: int, generation: int, world_size: int) -> NotReady | None:
        """Who holds up the plan of an epoch; None where every rank has ended the one before."""
        missing = self.missing(epoch - 1, generation, world_size)
        if not missing:
            return None
        now = self._clock()
        waited_s = now - self._first_asked.setdefault(epoch, now)
        # One tenth of the time waited so far: prompt for a rank that is about to end, calm for one that is not.
        retry_ms = min(_MAX_RETRY_MS, max(_MIN_RETRY_MS, int(100 * waited_s)))
        return NotReady(missing[:_LISTED_RANKS], retry_ms, timed_out=waited_s >= BARRIER_TIMEOUT_S)
