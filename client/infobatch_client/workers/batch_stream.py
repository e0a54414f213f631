"""The batches of one rank in its DataLoader workers: this worker's batches of a pass, collated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import IterableDataset, default_collate, get_worker_info

from infobatch_client.tie.rows import BatchRows, TiedBatch, without_tie
from infobatch_client.workers.orphans import end_with_parent
from infobatch_client.workers.pass_batches import PassBatches
from infobatch_client.workers.pass_control import PassControl
from infobatch_client.workers.sample_source import SampleSource
from infobatch_client.workers.worker_errors import SentError, sending_errors

__all__ = ["BatchStream"]


@dataclass(eq=False)
class BatchStream(IterableDataset[TiedBatch | SentError]):
    """Yields this worker's batches of the pass that `control` names, each of batch_size rows unless they are compact.

    An error of a worker process comes as a last batch, a `SentError`.

    Picklable into workers; holds no thread, lock or channel. Worker w of n makes the batches w, w + n, …

    Args:
        source: samples, and their pipeline.
        collate_fn: list of payloads → batch; None: torch's default_collate.
        control: names the pass.
        compact: batches have their real rows only.
    """

    source: SampleSource
    collate_fn: Callable[[list[Any]], Any] | None
    control: PassControl
    compact: bool = False

    def __iter__(self) -> Iterator[TiedBatch | SentError]:
        worker = get_worker_info()
        if worker:
            end_with_parent()
            return sending_errors(lambda: self._batches(worker.id, worker.num_workers), worker.id)
        return self._batches(0, 1)

    def _batches(self, number: int, workers: int) -> Iterator[TiedBatch]:
        batches = PassBatches(
            self.source,
            self.control.read(),
            finish=self._collated,
            draws=self.collate_fn is not None,
            compact=self.compact,
            noted=self.control.samples_of(number, workers),
        )
        return batches.batches(range(number, batches.opening.num_steps, workers))

    def _collated(self, rows: BatchRows) -> TiedBatch:
        payloads = rows.payloads
        if keyed := isinstance(payloads[0], dict):
            payloads = [without_tie(payload) for payload in payloads]
        payload = (self.collate_fn or default_collate)(payloads)
        keyed = keyed and self.collate_fn is None
        return TiedBatch(payload, rows.indices, rows.weights, keyed, rows.counts, rows.step, rows.dropped)
