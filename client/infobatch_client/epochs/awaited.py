"""The batches of one pass that were returned to the caller, and those of them that await their update."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from infobatch_client.tie.ticket import Ticket, checked_ticket
from infobatch_stream.errors import LossError

__all__ = ["AwaitedBatches"]


class AwaitedBatches:
    """Hands out the tickets of one pass, and takes them back with an update.

    Args:
        epoch: of the pass.

    `newest` is the ticket of the batch returned last; the length is the number of batches that await their update.
    """

    def __init__(self, epoch: int) -> None:
        self.newest: Ticket | None = None
        self.pass_id = object()
        self._epoch = epoch
        self._awaiting: dict[int, Ticket] = {}
        self._rows_left: dict[int, npt.NDArray[np.bool_]] = {}

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
            LossError: no batch was returned yet, the ticket is of another pass, or the batch is ambiguous.
        """
        if ticket is not None:
            if checked_ticket(ticket).epoch != self._epoch:
                raise LossError(f"the ticket is of epoch {ticket.epoch}; epoch {self._epoch} is open")
            if ticket.pass_id is not self.pass_id:
                raise LossError("the ticket is another loader's, or of a pass that was begun again")
            return ticket
        if self.newest is None:
            raise LossError("update() before the first batch: call it once for every batch that the loader returned")
        if len(self._awaiting) > 1 or (self._awaiting and self.newest.step not in self._awaiting):
            raise self._ambiguous()
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

    def _ambiguous(self) -> LossError:
        count = len(self._awaiting)
        many = f"{count} batches await their update" if count > 1 else "an earlier batch awaits its update"
        partly = f" ({len(self._rows_left)} of them for some of their rows)" if self._rows_left else ""
        return LossError(
            f"{many}{partly}, so it isn't clear whose losses these are: something takes batches ahead (a prefetcher, "
            "Accelerate, HF Trainer) or a batch was left out; pass the ticket that loader.ticketed() yields beside "
            "each batch, or call loader.skip() for a batch that isn't trained"
        )
