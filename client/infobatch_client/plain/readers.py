"""The readers of an open epoch in a plain loop: DataLoader workers, by shared memory, and this process's iterator."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import torch

from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.plain.row_stream import RowStream
from infobatch_client.ranks.ranks import Ranks
from infobatch_client.tie.pass_mark import mark_of
from infobatch_client.workers.pass_control import Pass, PassControl
from infobatch_stream.errors import LossError

__all__ = ["EpochReaders"]


class EpochReaders:
    """Announces epochs to the workers, and ends the iterators of those that are over.

    Args:
        control: the memory that the dataset's workers read.
        ranks: of the job.
        data_seed: the dataset's.
        loader_number: of a base seed, what tells this dataset's random augmentations from those of others.
    """

    def __init__(self, control: PassControl, ranks: Ranks, data_seed: int, loader_number: Callable[[int], int]) -> None:
        self._data_seed, self._number_under = data_seed, loader_number
        self._control = control
        self._ranks = ranks
        self._announced: OpenEpoch | None = None
        self._mark = 0
        self._rows: RowStream | None = None

    @property
    def exhausted(self) -> bool:
        """Whether the iterator of this process has returned its last row."""
        return self._rows is not None and self._rows.ended

    @property
    def loaded_state(self) -> bool:
        """Whether a worker has loaded a state of the DataLoader for the announced epoch."""
        return self._control.any_loaded

    def announce(self, epoch: OpenEpoch) -> Pass:
        """The pass over an epoch, which is written for the workers once."""
        if epoch is not self._announced:
            self.retire()
            base_seed = torch.initial_seed() if epoch.base_seed is None else epoch.base_seed
            self._mark = 1 + secrets.randbits(62)
            self._control.write(
                Pass.over(
                    epoch.opening,
                    epoch=epoch.number,
                    plan_path=epoch.plan_path,
                    rank=self._ranks.rank,
                    mark=self._mark,
                    generation=epoch.generation,
                    base_seed=base_seed,
                    data_seed=self._data_seed,
                    loader_number=self._number_under(base_seed),
                )
            )
            self._announced = epoch
        return self._control.read()

    def check_mark(self, index: torch.Tensor) -> None:
        """Raises LossError if a batch's index has the mark of another pass, of this dataset or of another one."""
        if mark_of(index) not in (None, self._mark):
            raise LossError(
                "this batch is another dataset's, or of an earlier iterator of this one: update each dataset with the "
                "batches of its own DataLoader, and before its next set_epoch()"
            )

    def begin(self, rows: RowStream) -> None:
        """An iterator of this process has begun; an earlier one is over."""
        self.retire()
        self._rows = rows

    def retire(self) -> None:
        """Ends the iterator of this process."""
        if self._rows is not None:
            self._rows.over = True
            self._rows = None

    def mark_updated(self) -> None:
        """A batch of the announced epoch was updated: workers refuse a second pass."""
        self._control.mark_updated()
