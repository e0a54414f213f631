"""Hugging Face Accelerate: batches on its device, and a signal to it at an epoch's last batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderStateMixin
from accelerate.state import GradientState
from accelerate.utils import send_to_device

from infobatch_client.integrations.ticketed_batches import BatchTicket, TicketedBatches
from infobatch_client.loader import InfoBatchLoader
from infobatch_stream.errors import ConfigError

__all__ = ["AcceleratedBatches"]


class AcceleratedBatches(TicketedBatches, DataLoaderStateMixin):  # type: ignore[misc]
    """Iterates over (ticket, batch), each batch on the accelerator's device.

    It needs no `accelerator.prepare`: its loader knows its rank. `accelerator.register_for_checkpointing(batches)` puts
    its state into `save_state` and `load_state`. `accelerator.accumulate` steps on an epoch's last batch, as with
    Accelerate's own loaders.

    Args:
        accelerator: batches go to its device.
        loader: a training loader.

    Raises:
        ConfigError: not an `InfoBatchLoader`, or one for validation (policy=None); or torch.distributed has more
            processes than Accelerate counts.

    Example:
        >>> for epoch in batches.epochs():                                   # doctest: +SKIP
        ...     for ticket, (images, labels) in batches:
        ...         with accelerator.accumulate(model):
        ...             loss = batches.update(criterion(model(images), labels), ticket)
        ...             accelerator.backward(loss); optimizer.step(); optimizer.zero_grad()
    """

    def __init__(self, accelerator: Accelerator, loader: InfoBatchLoader) -> None:
        super().__init__(loader)
        ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if ranks > 1 and accelerator.num_processes == 1:
            raise ConfigError(
                f"torch.distributed has {ranks} processes, and Accelerate trains each of them on its own "
                "(distributed_type NO): without a GPU make it as Accelerator(cpu=True)"
            )
        self.gradient_state = GradientState()
        self._device = accelerator.device

    def _batches(self, ticketed: Any) -> Iterator[tuple[BatchTicket, Any]]:
        self.begin()
        try:
            for ticket, batch in super()._batches(ticketed):
                self.end_of_dataloader = ticket.last
                yield ticket, send_to_device(batch, self._device)
        finally:
            self.end()
