"""The runs that were deleted last: a job that still trains one reads what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["DeletedRun", "DeletedRuns"]

_MAX_RUNS = 1024


@dataclass(frozen=True)
class DeletedRun:
    """One deleted run.

    Args:
        name: the run's name.
        by: who had it deleted, in words; empty if that isn't known.
        at_s: when, by the server's clock.
    """

    name: str
    by: str
    at_s: float

    def describe(self, now_s: float) -> str:
        """What became of the run, as "run 'x' was deleted 3 s ago by …"."""
        return f"run {self.name!r} was deleted {_age(now_s - self.at_s)} ago{f' by {self.by}' if self.by else ''}"


class DeletedRuns:
    """The newest deletions of one server. The caller synchronises changes.

    Args:
        clock: monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._runs: dict[bytes, DeletedRun] = {}  # the oldest first

    def add(self, run_id: bytes, name: str, by: str) -> None:
        """Remembers a deletion, and forgets the oldest of more than 1,024."""
        self._runs[run_id] = DeletedRun(name, by, self._clock())
        while len(self._runs) > _MAX_RUNS:
            del self._runs[next(iter(self._runs))]

    def by_id(self, run_id: bytes) -> DeletedRun | None:
        """The deleted run with this id, if it is remembered."""
        return self._runs.get(run_id)

    def by_name(self, name: str) -> DeletedRun | None:
        """The run of this name that was deleted last, if it is remembered."""
        return next((run for run in reversed(list(self._runs.values())) if run.name == name), None)


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
