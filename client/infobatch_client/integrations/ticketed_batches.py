"""A loader as other people's training loops take it: each batch with its ticket, each state that of what was trained.

Frameworks take batches before the ones before are trained: one (Accelerate, Lightning), or as many as gradients are
accumulated over (HF Trainer). So "the batch returned last" isn't the batch that is trained, and a loader's own state
counts batches that nobody has trained yet.
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
    """Which batch: travels beside it, through whatever a framework does to batches.

    Neither a dataclass nor a collection, which frameworks take apart and copy.

    Args:
        ticket: the loader's.
        state: of the loader, once this batch is trained.
        progress: of the loader, once this batch is trained.
        last: no batch of its epoch comes after it.
    """

    __slots__ = ("last", "progress", "state", "ticket")

    def __init__(self, ticket: Ticket, *, state: Mapping[str, Any], progress: float, last: bool) -> None:
        self.ticket = ticket
        self.state = state
        self.progress = progress
        self.last = last

    def __repr__(self) -> str:
        return f"BatchTicket(epoch={self.ticket.epoch}, step={self.ticket.step})"


class TicketedBatches:
    """Iterates over (ticket, batch) of an `InfoBatchLoader`; each pass is an epoch, or what a state leaves of it.

    It has no length, on purpose: frameworks ask once and take it for every epoch's, and a pruned epoch is shorter.
    For one thread, as the loader.

    Args:
        loader: a training loader.

    Raises:
        ConfigError: not an `InfoBatchLoader`, or one for validation (policy=None).
    """

    def __init__(self, loader: InfoBatchLoader) -> None:
        if not isinstance(loader, InfoBatchLoader):
            raise ConfigError(f"loader is a {type(loader).__name__}; give an InfoBatchLoader that trains a run")
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
        """As `InfoBatchLoader.progress`, but of the batches that were trained; `ProgressLR` goes by it."""
        return self.loader.progress() if self._progress is None else self._progress

    def epochs(self) -> Iterator[int]:
        """As `InfoBatchLoader.epochs`."""
        return self.loader.epochs()

    def __iter__(self) -> Iterator[tuple[BatchTicket, Any]]:
        """One pass over the open epoch; opens the next one where none is open, or this one was trained.

        Empty when every epoch is trained: a framework that resumes from its last checkpoint finds nothing to do.
        """
        if self.progress() >= self.num_epochs:
            return iter(())
        taken = self.loader.ticketed()
        self._state, self._progress = self.loader.state_dict(), self.loader.progress()
        return self._batches(taken)

    def _batches(self, taken: Iterator[tuple[Ticket, Any]]) -> Iterator[tuple[BatchTicket, Any]]:
        for left in reversed(range(len(self.loader))):
            ticket, batch = next(taken)
            state, progress = self.loader.state_dict(), self.loader.progress()
            if not left:
                next(taken, None)  # the loader sees that the epoch is over, and ends it with the last update
            yield BatchTicket(ticket, state=state, progress=progress, last=not left), batch

    def update(self, losses: Losses, ticket: BatchTicket, scores: torch.Tensor | None = None) -> torch.Tensor:
        """The weighted mean of a batch's losses, to be differentiated; their values go to the server.

        Args:
            losses: float tensor (B,), or a dict of them, which are summed.
            ticket: that came with the batch.
            scores: float tensor (B,) to push instead of the losses.

        Raises:
            LossError: `ticket` is none, or of another epoch; or the losses have another shape or dtype.
        """
        value = self.loader.update(losses, scores, batch=self._checked(ticket).ticket)
        self._settle(ticket)
        return value

    def skip(self, ticket: BatchTicket) -> None:
        """Says that a batch is deliberately not trained: its samples keep their scores."""
        self.loader.skip(self._checked(ticket).ticket)
        self._settle(ticket)

    def state_dict(self) -> dict[str, Any]:
        """Where training stands: batches that were taken and not yet updated are still to come."""
        return self.loader.state_dict() if self._state is None else dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where a state says; before the first pass. Of the framework's own skipping of batches use none."""
        self.loader.load_state_dict(state)

    def close(self, timeout_s: float | None = None) -> None:
        """As `InfoBatchLoader.close`."""
        self.loader.close(timeout_s)

    def _checked(self, ticket: BatchTicket) -> BatchTicket:
        if not isinstance(ticket, BatchTicket):
            raise LossError(
                f"{type(ticket).__name__} is no ticket: pass the one that came beside the batch whose losses these are"
            )
        return ticket

    def _settle(self, ticket: BatchTicket) -> None:
        self._state, self._progress = ticket.state, ticket.progress
