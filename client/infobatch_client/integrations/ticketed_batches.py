"""A loader for other people's training loops: each batch with its ticket, and states that count trained batches only.

Frameworks read ahead of the batch that they train: by one batch (Accelerate, Lightning), or by as many as gradients
are accumulated over (HF Trainer). So "the batch returned last" isn't the batch that is trained, and a loader's own
state counts batches that aren't trained yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from infobatch_client.loader import InfoBatchLoader
from infobatch_client.tie.ticket import Ticket
from infobatch_client.tie.weighting import Losses
from infobatch_stream.errors import ConfigError, LossError

__all__ = ["BatchTicket", "TicketedBatches"]


class BatchTicket:
    """The ticket of a batch, which travels beside it through a framework.

    Neither a dataclass nor a collection: frameworks take those apart and copy them.

    Args:
        ticket: the loader's.
        state: the loader's, once this batch is trained.
        progress: the loader's, once this batch is trained.
        last: no batch of its epoch comes after it.
    """

    __slots__ = ("_state", "last", "progress", "ticket")

    def __init__(self, ticket: Ticket, *, state: Mapping[str, Any], progress: float, last: bool) -> None:
        self.ticket = ticket
        self._state = dict(state)
        self.progress = progress
        self.last = last

    @property
    def state(self) -> dict[str, Any]:
        """The loader's state once this batch is trained; a new dict at every look."""
        return dict(self._state)

    def __repr__(self) -> str:
        return f"BatchTicket(epoch={self.ticket.epoch}, step={self.ticket.step})"


class TicketedBatches:
    """Iterates over (ticket, batch) of an `InfoBatchLoader`; each pass is an epoch, or the rest of a resumed one.

    It has no length, on purpose: frameworks read it once and use it for every epoch, and a pruned epoch is shorter.
    For one thread, as the loader.

    Args:
        loader: a training loader.

    Raises:
        ConfigError: not an `InfoBatchLoader`, or one for validation (policy=None).
    """

    def __init__(self, loader: InfoBatchLoader) -> None:
        if not isinstance(loader, InfoBatchLoader):
            raise ConfigError(f"loader is a {type(loader).__name__}; pass an InfoBatchLoader that trains a run")
        if not loader.trains:
            raise ConfigError("a validation loader (policy=None) has nothing to update: give it to the framework as is")
        self.loader = loader
        self._state: Mapping[str, Any] | None = None
        self._progress: float | None = None

    @property
    def num_epochs(self) -> int:
        """The epochs that the run's schedule is for."""
        return self.loader.num_epochs

    def progress(self) -> float:
        """As `InfoBatchLoader.progress`, but of the batches that were trained; `ProgressLR` follows it."""
        return self.loader.progress() if self._progress is None else self._progress

    def epochs(self) -> Iterator[int]:
        """As `InfoBatchLoader.epochs`."""
        return self.loader.epochs()

    def __iter__(self) -> Iterator[tuple[BatchTicket, Any]]:
        """One pass over the open epoch; opens the next one if none is open, or if this one was trained.

        Empty when every epoch is trained: a framework that resumes from its last checkpoint has nothing left to do.
        """
        if self.progress() >= self.num_epochs:
            return iter(())
        ticketed = self.loader.ticketed()
        self._state, self._progress = self.loader.state_dict(), self.loader.progress()
        return self._batches(ticketed)

    def _batches(self, ticketed: Iterator[tuple[Ticket, Any]]) -> Iterator[tuple[BatchTicket, Any]]:
        for left in reversed(range(len(self.loader))):
            ticket, batch = next(ticketed)
            state, progress = self.loader.state_dict(), self.loader.progress()
            if not left:
                next(ticketed, None)  # the loader sees that the epoch is over, and ends it with the last update
            yield BatchTicket(ticket, state=state, progress=progress, last=not left), batch

    def update(
        self,
        losses: Losses,
        ticket: BatchTicket,
        scores: torch.Tensor | None = None,
        columns: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The weighted mean of a batch's losses, to be differentiated; queues their values for the server.

        Args:
            losses: float tensor (B,), or a dict of them, which are summed.
            ticket: the one that came with the batch.
            scores: float tensor (B,) to push instead of the losses.
            columns: tensor (B,) by name, of the columns that the run's policy declares.

        Raises:
            LossError: `ticket` is not a ticket, or of another epoch; the losses have another shape or dtype; or columns
                are missing or unknown.
        """
        value = self.loader.update(losses, scores, batch=self._checked(ticket).ticket, columns=columns)
        self._settle(ticket)
        return value

    def skip(self, ticket: BatchTicket) -> None:
        """Says that a batch is deliberately not trained: its samples keep their scores."""
        self.loader.skip(self._checked(ticket).ticket)
        self._settle(ticket)

    def state_dict(self) -> dict[str, Any]:
        """The position of the training: batches that were read ahead and not yet updated come again."""
        return self.loader.state_dict() if self._state is None else dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resumes from a state; before the first pass. Switch a framework's own skipping of batches off."""
        self.loader.load_state_dict(state)

    def close(self, timeout_s: float | None = None) -> None:
        """As `InfoBatchLoader.close`."""
        self.loader.close(timeout_s)

    def _checked(self, ticket: BatchTicket) -> BatchTicket:
        if not isinstance(ticket, BatchTicket):
            raise LossError(
                f"a {type(ticket).__name__} is not a ticket: pass the one that came beside the batch of these losses"
            )
        return ticket

    def _settle(self, ticket: BatchTicket) -> None:
        self._state, self._progress = ticket.state, ticket.progress
