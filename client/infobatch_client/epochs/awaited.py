"""The batches of one pass that were returned to the caller, and those of them that await their update."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from infobatch_client.tie.ticket import Ticket, checked_ticket
from infobatch_client.user_warnings import warn_user
from infobatch_stream.errors import LossError

__all__ = ["AwaitedBatches"]


class AwaitedBatches:
    """Hands out the tickets of one pass, and takes them back with an update.

    Args:
        epoch: of the pass.

    `newest` is the ticket of the batch returned last; the length is the number of batches that await their update.
    `ended` is whether the caller has asked for a batch behind the last one.
    """

    def __init__(self, epoch: int) -> None:
        self.newest: Ticket | None = None
        self.ended = False
        self.pass_id = object()
        self._epoch = epoch
        self._awaiting: dict[int, Ticket] = {}
        self._rows_left: dict[int, npt.NDArray[np.bool_]] = {}
        self._left_behind = False
        self._may_repeat = False
        self._first_trained: int | None = None

    def __len__(self) -> int:
        return len(self._awaiting)

    @property
    def tickets(self) -> list[Ticket]:
        """Of the batches that await their update, in the order in which they were returned."""
        return list(self._awaiting.values())

    def add(self, step: int, index: npt.NDArray[np.int64], weight: npt.NDArray[np.float32], batch_size: int) -> Ticket:
        """The ticket of a batch that is returned now, with all of its rows or with those that are real."""
        self.newest = self._awaiting[step] = Ticket(self._epoch, step, index, weight, self.pass_id, float(batch_size))
        return self.newest

    def due(self, ticket: Ticket | None) -> Ticket:
        """The batch that an update is for: the ticket's, or the one returned last if no other awaits its update.

        Raises:
            LossError: no batch was returned yet, the ticket is of another pass, the batch is ambiguous, or the caller
                has gone past the last batch, so that something returns batches a second time.
        """
        if ticket is not None:
            if checked_ticket(ticket).epoch != self._epoch:
                raise LossError(f"the ticket is of epoch {ticket.epoch}; epoch {self._epoch} is open")
            if ticket.pass_id is not self.pass_id:
                raise LossError("the ticket is another loader's, or of a pass that was begun again")
            if self._left_behind:
                raise self._over()
            self.allow_repeats()
            return ticket
        if self.newest is None:
            raise LossError("update() before the first batch: call it once for every batch that the loader returned")
        if len(self._awaiting) > 1 or (self._awaiting and self.newest.step not in self._awaiting):
            raise self._ambiguous()
        if not self._awaiting:
            if self.ended:
                raise self._over()
            self._note_repeat(self.newest)
        return self.newest

    def end(self) -> None:
        """The caller has asked for a batch behind the last one.

        If a batch awaits its update, the caller takes batches ahead or holds them, and may update one again by its
        ticket. If none does, the pass lies behind it.
        """
        self.ended = True
        self._left_behind = not self._awaiting

    def shown(self, call: str, *, trains: bool) -> Ticket:
        """The batch returned last, for `call`.

        Raises:
            LossError: none was returned yet, or the pass is over.
        """
        if self.newest is None:
            raise LossError(f"{call}() before the first batch")
        if self.ended and not (trains and self._awaiting):
            raise self._over()
        return self.newest

    def settle(self, ticket: Ticket, rows: slice | None = None) -> None:
        """Counts a batch as updated or skipped; with `rows`, once all of its rows have been."""
        if rows is not None and ticket.step in self._awaiting:
            left = self._rows_left.setdefault(ticket.step, np.ones(len(ticket), bool))
            left[rows] = False
            if left.any():
                return
        self._rows_left.pop(ticket.step, None)
        self._awaiting.pop(ticket.step, None)
        if self._first_trained is None and ticket.weight.any():
            self._first_trained = ticket.step

    def allow_repeats(self) -> None:
        """The loop names batches, or has skipped one: it needs no warning when it updates one again."""
        self._may_repeat = True

    def _note_repeat(self, newest: Ticket) -> None:
        """SAM and LBFGS update every batch again; a cycle over some batches of a pass looks like one that is.

        LBFGS takes a batch without a real row once: its gradient is 0.
        """
        if self._first_trained not in (None, newest.step) and not self._may_repeat:
            warn_user(
                f"batch {newest.step} of epoch {self._epoch} is updated again, as none before it was, and its scores "
                "are replaced: if these are the losses of another batch (itertools.cycle over a part of a pass), take "
                "batches from the loader only; if they are this batch's, pass its ticket (batch=, loader.ticketed())",
            )
        self._may_repeat = True

    def _over(self) -> LossError:
        return LossError(
            f"the pass over epoch {self._epoch} is over, and all of its batches are updated: this is none that comes "
            "next. If something returns batches again (itertools.cycle, a list), loop over the loader instead: "
            "`for epoch in loader.epochs(): for batch in loader`. To use a batch after its pass, keep its ticket "
            "(loader.ticketed())"
        )

    def _ambiguous(self) -> LossError:
        count = len(self._awaiting)
        many = f"{count} batches await their update" if count > 1 else "an earlier batch awaits its update"
        partly = f" ({len(self._rows_left)} of them for some of their rows)" if self._rows_left else ""
        return LossError(
            f"{many}{partly}, so it isn't clear whose losses these are: something takes batches ahead (a prefetcher, "
            "Accelerate, HF Trainer) or a batch was left out; pass the ticket that loader.ticketed() yields beside "
            "each batch, or call loader.skip() for a batch that isn't trained"
        )
