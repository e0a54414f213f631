"""The calls by which a loader's losses find their samples: update, push, skip, weights, valid."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from infobatch_client.epochs.loop import EpochLoop
from infobatch_client.epochs.returned import ReturnedBatches
from infobatch_client.tie.ticket import Ticket, checked_ticket
from infobatch_client.tie.weighting import Losses, checked_losses, weighted_mean
from infobatch_stream.keywords import suggesting

__all__ = ["LossCalls"]


class LossCalls:
    """The half of `InfoBatchLoader` that takes losses and scores."""

    _epochs: EpochLoop
    _returned: ReturnedBatches

    @suggesting
    def update(
        self,
        losses: Losses,
        scores: torch.Tensor | None = None,
        batch: Ticket | None = None,
        rows: slice | None = None,
        columns: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The weighted mean of a batch's losses, to be differentiated; queues their values for the server.

        Σ wᵢ·lᵢ / B, B being the loader's `batch_size`: over an epoch its sum is in expectation that of the unpruned
        losses (paper Eq. 6–8). Returns within microseconds: nothing is sent here, and a GPU isn't waited for. Another
        update of the same batch (SAM, LBFGS) replaces its scores.

        Args:
            losses: float tensor (B,) on any device (`reduction="none"`), or a dict of them, which are summed.
            scores: float tensor (B,) to push instead of the losses.
            batch: the batch's ticket; by default the batch returned last.
            rows: only these rows of it, a micro-batch: `losses`, `scores` and `columns` are of its length n, and the
                mean is Σ wᵢ·lᵢ / n. With A equal micro-batches, divide by A as always. The batch counts as updated
                once all of its rows are. With `compact=True`, of a batch of b rows, it is Σ wᵢ·lᵢ / (n·B/b).
            columns: tensor (B,) by name, of exactly the columns that the run's policy declares as pushed: floats for
                a float column, integers or bools for an integer one; converted to the declared dtype.

        Returns:
            A scalar with its graph, float32 or float64.

        Raises:
            LossError: wrong shape or dtype, rows outside the batch, missing or unknown columns, it isn't clear which
                batch is meant, or the pass is over.
            ConfigError: a validation loader, or closed.
            ServerError: the pusher has stopped: another job has taken over the run, or the run was deleted.
        """
        ticket = self._epochs.for_scores().awaited.due(batch)
        part = ticket.part(rows)
        checked = checked_losses(losses, len(part))
        pushed = checked if scores is None else checked_losses(scores, len(part), "scores")
        value = weighted_mean(checked, part.weight, part.divisor)
        self._epochs.push(part, pushed, columns)
        self._epochs.settle(ticket, rows)
        return value

    @suggesting
    def push(
        self,
        scores: torch.Tensor,
        batch: Ticket | None = None,
        rows: slice | None = None,
        columns: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Pushes scores of a batch whose losses the caller reduces (with `weights()`); it counts as updated.

        Args:
            scores: float tensor (B,), or (n,) with `rows`.
            batch, rows, columns: as for `update`.
        """
        ticket = self._epochs.for_scores().awaited.due(batch)
        part = ticket.part(rows)
        self._epochs.push(part, checked_losses(scores, len(part), "scores"), columns)
        self._epochs.settle(ticket, rows)

    @suggesting
    def skip(self, batch: Ticket | None = None) -> None:
        """Says that a batch, or the rest of its rows, is deliberately not trained: its samples keep their scores.

        Args:
            batch: the batch's ticket; by default every batch that awaits its update.
        """
        awaited = self._epochs.for_scores().awaited
        for ticket in awaited.tickets if batch is None else [awaited.due(batch)]:
            self._epochs.settle(ticket)
        awaited.allow_repeats()

    @suggesting
    def weights(self, batch: Ticket | None = None, rows: slice | None = None) -> torch.Tensor:
        """Weights float32 (B,) of a batch, or of its `rows`, as a new tensor; 0 in rows that only fill it up.

        Args:
            batch: the batch's ticket; by default the batch returned last.
            rows: only these rows of it.

        Raises:
            LossError: before the first batch, or after the last: a pass that is over has no present batch.
        """
        return torch.from_numpy(self._ticket(batch, "weights").part(rows).weight)

    @suggesting
    def valid(self, batch: Ticket | None = None, rows: slice | None = None) -> torch.Tensor:
        """Which rows of a batch are samples of their own, bool (B,), as a new tensor; False in rows that only fill it.

        For losses that compare the rows of a batch with each other, and for logs: a row that fills is another's copy.

        Args:
            batch: the batch's ticket; by default the batch returned last.
            rows: only these rows of it.

        Raises:
            LossError: before the first batch, or after the last: a pass that is over has no present batch.
        """
        return torch.from_numpy(self._ticket(batch, "valid").part(rows).index >= 0)

    def _ticket(self, batch: Ticket | None, call: str) -> Ticket:
        return self._epochs.shown(call) if batch is None else checked_ticket(batch)
