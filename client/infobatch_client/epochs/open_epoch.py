"""The life of an epoch in one loop: what was given, what was updated, how far the epoch is."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from infobatch_client.tie.ticket import Ticket, checked_ticket
from infobatch_stream.errors import LossError
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.plan.opening import Opening
from infobatch_stream.row_counts import NO_ROWS, RowCounts

__all__ = ["OpenEpoch"]


@dataclass
class OpenEpoch:
    """An epoch between its opening and its end.

    Args:
        number: the epoch.
        plan: what is trained.
        plan_path: the file that workers map.
        opening: the steps from where it began.
        explicit: opened by `epochs()` or `set_epoch()`, so that a second pass over it is a mistake.
        max_steps: a pass gives at most so many batches.
    """

    number: int
    plan: EpochPlan
    plan_path: str
    opening: Opening
    explicit: bool
    max_steps: int | None = None
    passes: int = 0
    given: int = 0
    updated: int = 0
    exhausted: bool = False
    ended: bool = False
    counts: RowCounts = NO_ROWS
    awaiting: OrderedDict[int, Ticket] = field(default_factory=OrderedDict)
    rows_left: dict[int, npt.NDArray[np.bool_]] = field(default_factory=dict)
    this_pass: object = field(default_factory=object)
    newest: Ticket | None = None

    @property
    def positions(self) -> int:
        """Global positions consumed: those of the batches that were returned to the caller."""
        return self.opening.consumed(self.given)

    @property
    def num_batches(self) -> int:
        """What a pass gives."""
        steps = self.opening.num_steps
        return steps if self.max_steps is None else min(steps, self.max_steps)

    @property
    def stopped(self) -> bool:
        """`max_steps` ends the pass here, before the epoch's own end."""
        return not self.finished and self.given >= self.num_batches

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
        self.passes += 1
        self.this_pass = object()
        self.given, self.exhausted, self.newest = 0, False, None
        self.counts = RowCounts()
        self.awaiting.clear()
        self.rows_left.clear()

    def give(self, index: npt.NDArray[np.int64], weight: npt.NDArray[np.float32], counts: RowCounts) -> Ticket:
        """Counts a batch as returned to the caller."""
        self.newest = Ticket(self.number, self.given, index, weight, self.this_pass)
        self.awaiting[self.given] = self.newest
        self.given += 1
        self.counts += counts
        return self.newest

    def due(self, ticket: Ticket | None) -> Ticket:
        """The batch that an update is for: the one named, or the one returned last if no other awaits its update.

        Raises:
            LossError: no batch was given yet, or it isn't clear which one is meant.
        """
        if ticket is not None:
            if checked_ticket(ticket).epoch != self.number:
                raise LossError(f"the ticket is of epoch {ticket.epoch}; epoch {self.number} is open")
            if ticket.given_by is not self.this_pass:
                raise LossError("the ticket is another loader's, or of a pass that was begun again")
            return ticket
        if self.newest is None:
            raise LossError("update() before the first batch: call it once for every batch that the loader gave")
        if len(self.awaiting) > 1 or (self.awaiting and self.newest.step not in self.awaiting):
            count = len(self.awaiting)
            many = f"{count} batches await their update" if count > 1 else "an earlier batch awaits its update"
            partly = f" ({len(self.rows_left)} of them for some of their rows)" if self.rows_left else ""
            raise LossError(
                f"{many}{partly}, so it isn't clear whose losses these are: "
                "something takes batches ahead (a prefetcher, Accelerate, HF Trainer) or a batch was left out; pass "
                "the ticket that loader.ticketed() yields beside each batch, or call loader.skip() for a batch that "
                "isn't trained"
            )
        return self.newest

    def settle(self, ticket: Ticket, rows: slice | None = None) -> None:
        """Counts a batch as updated, or as deliberately not trained; with `rows` once all of them have been."""
        self.updated += 1
        if rows is not None and ticket.step in self.awaiting:
            left = self.rows_left.setdefault(ticket.step, np.ones(len(ticket.index), bool))
            left[rows] = False
            if left.any():
                return
        self.rows_left.pop(ticket.step, None)
        self.awaiting.pop(ticket.step, None)

    def metrics(self) -> dict[str, float]:
        """What was drawn, and what became of the rows that were given."""
        return {
            "epoch": self.number,
            "positions": self.positions,
            "kept": self.plan.kept,
            "pruned": self.plan.pruned,
            **{f"rows_{name}": value for name, value in self.counts._asdict().items()},
        }
