"""Lightning: a data module whose batches carry tickets, and whose state goes into Lightning's checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from infobatch_client.integrations.ticketed_batches import BatchTicket, TicketedBatches
from infobatch_client.loader import InfoBatchLoader
from infobatch_client.tie.weighting import Losses

__all__ = ["InfoBatchDataModule"]


class InfoBatchDataModule(LightningDataModule):
    """Passes (ticket, batch) to `training_step`, in automatic and in manual optimisation.

    Lightning sees a loader without a length: it reads one batch ahead to recognise an epoch's last one. So a pruned
    epoch ends at its own last batch, `accumulate_grad_batches` steps there, and validation runs after it.
    `val_check_interval` must be 1.0 or a number of batches, and `limit_train_batches` a number that every epoch
    reaches. For validation, define `val_dataloader` in a subclass: an `InfoBatchLoader` with policy=None, or any
    other. The state is in every checkpoint that isn't `weights_only`, in mid-epoch too. Training ends with the run's
    last epoch, unless `max_epochs` or `max_steps` ends it before.

    Args:
        loader: a training loader. It may be made before Lightning has started its processes.

    Raises:
        ConfigError: not an `InfoBatchLoader`, or one for validation (policy=None).

    Example:
        >>> def training_step(self, batch):                                  # doctest: +SKIP
        ...     ticket, (images, labels) = batch
        ...     losses = F.cross_entropy(self(images), labels, reduction="none")
        ...     return self.trainer.datamodule.update(losses, ticket)
    """

    def __init__(self, loader: InfoBatchLoader) -> None:
        super().__init__()
        self.batches = TicketedBatches(loader)
        self._stage = ""

    @property
    def num_epochs(self) -> int:
        """The epochs that the run's schedule is for; the right value for `Trainer(max_epochs=)`."""
        return self.batches.num_epochs

    def progress(self) -> float:
        """Epochs trained, the open one by its share; `ProgressLR(optimizer, …, self.trainer.datamodule)` follows it."""
        return self.batches.progress()

    def update(
        self,
        losses: Losses,
        ticket: BatchTicket,
        scores: torch.Tensor | None = None,
        columns: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The loss that `training_step` returns, or passes to `manual_backward`; see `TicketedBatches.update`."""
        value = self.batches.update(losses, ticket, scores, columns)
        self._stop_at_the_end()
        return value

    def skip(self, ticket: BatchTicket) -> None:
        """Says that a batch is deliberately not trained (`training_step` returns None)."""
        self.batches.skip(ticket)
        self._stop_at_the_end()

    def setup(self, stage: str) -> None:
        """Lightning calls it."""
        self._stage = stage

    def teardown(self, stage: str) -> None:
        """Sends the last scores and gives the run's lease back; Lightning calls it."""
        if stage == "fit":
            self.batches.close()

    def on_exception(self, exception: BaseException) -> None:
        """Sends pending scores for up to 5 s; Lightning calls it instead of `teardown` when training is interrupted."""
        self.batches.close(5.0)

    def train_dataloader(self) -> Iterable[tuple[BatchTicket, Any]]:
        """Lightning calls it."""
        self._stop_at_the_end()  # a checkpoint of the end may have been loaded
        return _Passes(self.batches)

    def state_dict(self) -> dict[str, Any]:
        """The position of the training; Lightning puts it into its checkpoints."""
        return self.batches.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resumes from a checkpoint's state; Lightning calls it after `setup`, even if it doesn't train."""
        if self._stage == "fit":
            self.batches.load_state_dict(state_dict)

    def _stop_at_the_end(self) -> None:
        if self.trainer is not None and self.progress() >= self.num_epochs:
            self.trainer.should_stop = True


class _Passes:
    """The iterable that Lightning reads.

    These two methods make it resumable in Lightning's eyes. Lightning calls them too late, after the first pass has
    begun, and never between epochs; so the data module carries the state, and they do nothing.
    """

    def __init__(self, batches: TicketedBatches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[tuple[BatchTicket, Any]]:
        return iter(self._batches)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        return
