"""The life of an epoch in one loop: what was given, what was updated, how far the epoch is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from infobatch_client.batch_stream import RowCounts
from infobatch_stream.errors import LossError
from infobatch_stream.opening import Opening
from infobatch_stream.plan import EpochPlan

__all__ = ["OpenEpoch", "Ticket", "with_tie"]

NO_ROWS = RowCounts(0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Ticket:
    """One batch, as `update` needs it: the tie of its rows.

    Args:
        epoch: the epoch it was given in.
        step: its number in this pass.
        index: int64 (B,), −1 in rows that fill.
        weight: float32 (B,), 0 in rows that fill.
    """

    epoch: int
    step: int
    index: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]


@dataclass
class OpenEpoch:
    """An epoch between its opening and its end.

    Args:
        number: the epoch.
        plan: what is trained.
        plan_path: the file that workers map.
        opening: the steps from where it began.
        explicit: opened by `epochs()`, so that a second pass over it is a mistake.
    """

    number: int
    plan: EpochPlan
    plan_path: str
    opening: Opening
    explicit: bool
    given: int = 0
    updated: int = 0
    exhausted: bool = False
    ended: bool = False
    counts: RowCounts = NO_ROWS
    awaiting: OrderedDict[int, Ticket] = field(default_factory=OrderedDict)
    newest: Ticket | None = None

    @property
    def positions(self) -> int:
        """Global positions consumed: those of the batches that were returned to the caller."""
        return self.opening.consumed(self.given)

    @property
    def finished(self) -> bool:
        """Every batch of the epoch was given."""
        return self.given >= self.opening.num_steps

    @property
    def progress(self) -> float:
        """epoch + consumed / positions of this epoch."""
        return self.number + (1.0 if self.finished else self.positions / self.opening.end)

    def restart(self) -> None:
        """Begins the pass again; nothing was updated, so nothing is lost."""
        self.given, self.exhausted, self.newest = 0, False, None
        self.counts = NO_ROWS
        self.awaiting.clear()

    def give(self, index: npt.NDArray[np.int64], weight: npt.NDArray[np.float32], counts: RowCounts) -> Ticket:
        """Counts a batch as returned to the caller."""
        self.newest = Ticket(self.number, self.given, index, weight)
        self.awaiting[self.given] = self.newest
        self.given += 1
        self.counts = RowCounts(*(a + b for a, b in zip(self.counts, counts, strict=True)))
        return self.newest

    def due(self, ticket: Ticket | None) -> Ticket:
        """The batch that an update is for: the one named, or the one returned last if no other awaits its update.

        Raises:
            LossError: no batch was given yet, or it isn't clear which one is meant.
        """
        if ticket is not None:
            if not isinstance(ticket, Ticket):
                raise LossError(f"batch={ticket!r} is no ticket; loader.ticketed() yields them")
            if ticket.epoch != self.number:
                raise LossError(f"the ticket is of epoch {ticket.epoch}; epoch {self.number} is open")
            return ticket
        if self.newest is None:
            raise LossError("update() before the first batch: call it once for every batch that the loader gave")
        if len(self.awaiting) > 1 or (self.awaiting and self.newest.step not in self.awaiting):
            raise LossError(
                f"{len(self.awaiting)} batches await their update, so it isn't clear whose losses these are: something "
                "takes batches ahead (a prefetcher, Accelerate, HF Trainer) or a batch was left out; pass the ticket "
                "that loader.ticketed() yields beside each batch, or call loader.skip() for a batch that isn't trained"
            )
        return self.newest

    def settle(self, ticket: Ticket) -> None:
        """Counts a batch as updated, or as deliberately not trained."""
        self.awaiting.pop(ticket.step, None)
        self.updated += 1


def with_tie(payload: Any, keyed: bool, extra: Mapping[str, Any]) -> Any:
    """A batch with `__index__` and `__weight__` beside it, where it is a dict made of dicts."""
    return {**payload, **extra} if keyed and isinstance(payload, dict) else payload
