"""torch's DataLoader around a BatchStream: the processes that make a loader's batches, for all of its passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from typing import Any

import torch
from torch.utils.data import DataLoader

from infobatch_client.tie.rows import TiedBatch
from infobatch_client.workers.batch_seeds import pass_seed
from infobatch_client.workers.batch_stream import BatchStream
from infobatch_client.workers.pass_control import Pass, PassControl
from infobatch_client.workers.sample_source import SampleSource
from infobatch_client.workers.unsent import WorkerStart
from infobatch_client.workers.worker_errors import SentError
from infobatch_stream.errors import WorkerError

__all__ = ["WorkerPool"]

_DYING_S = 1.0


class WorkerPool:
    """Makes the batches of one pass after the other; workers live from the first pass to `close`.

    Args:
        source: samples, and their pipeline.
        num_workers: processes; 0 makes the batches in this one.
        collate_fn: list of payloads → batch; None for torch's.
        pin_memory, prefetch_factor, multiprocessing_context, worker_init_fn: as in torch's DataLoader.
        compact: batches have their real rows only.

    `control` tells the workers of a pass, and holds what they note of it.
    """

    def __init__(
        self,
        source: SampleSource,
        num_workers: int,
        *,
        collate_fn: Callable[[list[Any]], Any] | None,
        pin_memory: bool,
        prefetch_factor: int,
        multiprocessing_context: str | None,
        worker_init_fn: Callable[[int], None] | None,
        compact: bool = False,
    ) -> None:
        self.control = PassControl()
        self._fingerprint = source.reader.manifest.fingerprint
        self._generator = torch.Generator("cpu")  # of our own, so that torch's global one is left alone
        workers: dict[str, Any] = {}
        if num_workers:
            workers = {
                "persistent_workers": True,
                "prefetch_factor": prefetch_factor,
                "multiprocessing_context": multiprocessing_context,
                "worker_init_fn": WorkerStart(worker_init_fn),
            }
        self._data_loader: DataLoader[TiedBatch | SentError] = DataLoader(
            BatchStream(source, collate_fn, self.control, compact),
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            generator=self._generator,
            **workers,
        )

    def batches(self, pass_: Pass) -> Iterator[TiedBatch]:
        """The batches of a pass, in order; begins at once, and ends the pass before it.

        If that, or the pass itself, ends by an exception (Ctrl-C is one), the workers end with it: what they had made
        would come in a later pass. The next one gets new workers, and so does one whose workers have been killed, as
        Ctrl-C in a terminal kills them.
        """
        self.control.write(pass_)
        self._generator.manual_seed(pass_seed(pass_, self._fingerprint))
        try:
            if not all(worker.is_alive() for worker in getattr(self._iterator, "_workers", ())):
                self.close()
            try:
                batches = self._begin()
            except Exception:  # a worker has died, or dies, while the pass is begun
                if self._iterator is None:
                    raise
                self.close()
                batches = self._begin()
        except BaseException:
            self.close()
            raise
        return self._whole(batches)

    def close(self) -> None:
        """Ends the workers now: in the garbage collector, torch would wait 5 s for each of them."""
        if (running := self._iterator) is not None:
            self._data_loader._iterator = None  # first: a second Ctrl-C may come while it waits for them
            running._shutdown_workers()

    @property
    def _iterator(self) -> Any:
        """torch's, with its processes; it outlives a pass."""
        return getattr(self._data_loader, "_iterator", None)

    def _begin(self) -> Iterator[TiedBatch | SentError]:
        with torch.device("cpu"):  # torch draws a seed by our generator, whatever the default device is
            return iter(self._data_loader)

    def _whole(self, batches: Iterator[TiedBatch | SentError]) -> Iterator[TiedBatch]:
        """The batches of a pass, without those of an iterator that an exception has left in an unknown state."""
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except BaseException as error:
                ended = self._ended() if isinstance(error, OSError | EOFError) else ""
                self._close(batches)
                if ended:  # torch has received a batch whose tensors were gone with its worker
                    raise WorkerError(f"{ended} while the loop waited for its batches") from error
                raise
            if isinstance(batch, SentError):
                self._close(batches)
                batch.raise_here()
            yield batch

    def _close(self, batches: Iterator[TiedBatch | SentError]) -> None:
        if batches is self._iterator:
            self.close()

    def _ended(self) -> str:
        """Names the processes that have ended, or are about to."""
        workers = getattr(self._iterator, "_workers", ())
        if workers:
            wait([worker.sentinel for worker in workers], timeout=_DYING_S)
        return ", ".join(
            f"worker process {number} ended with exit code {worker.exitcode}"
            for number, worker in enumerate(workers)
            if not worker.is_alive()
        )


def _as_it_is(batch: Any) -> Any:
    """Replaces torch's default, which would make tensors of the tie: each is one more file to send."""
    return batch
