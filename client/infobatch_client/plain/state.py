"""The parts of a dataset in a plain DataLoader: its place among the ranks, the workers' memory, its epochs."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from infobatch_client.epochs.holder import DATASET
from infobatch_client.plain.pass_numbers import PassNumbers
from infobatch_client.ranks.place import RankChoice
from infobatch_client.ranks.ranks import Ranks
from infobatch_client.run.options import RunOptions, Timeouts
from infobatch_client.workers.loader_number import LoaderNumber
from infobatch_client.workers.pass_control import Pass, PassControl
from infobatch_client.workers.sample_source import SampleSource
from infobatch_stream.errors import ConfigError
from infobatch_stream.ratios import whole_number

if TYPE_CHECKING:
    from infobatch_client.plain.epochs import PlainEpochs
    from infobatch_client.shards.index_store import IndexedShards

__all__ = ["PlainState"]

Self = TypeVar("Self", bound="PlainState")


class PlainState(ABC):
    """The parts that a dataset's rows and calls share.

    A copy, as fluid methods make it, and a pickle or a fork in another process have no part in an epoch that is open
    here.
    """

    options: RunOptions | None
    indexed: IndexedShards
    seed: int
    shuffled: bool
    batch_size: int | None
    _subset: npt.NDArray[np.bool_] | None = None  # the samples of a validation set; None: all

    def _prepare(self, batch_size: int | None) -> None:
        """For the constructor: the memory that workers read is there before any of them starts."""
        self.batch_size = None if batch_size is None else whole_number(batch_size, "batch_size", 1)
        self._control = PassControl()
        self._owner = os.getpid()
        self._epochs: PlainEpochs | None = None
        self._ranks = self._among(RankChoice())
        self._read_by = 0
        self._pickled_place: tuple[int, int] | None = None
        self._pass_numbers = PassNumbers()
        self._loader_number = LoaderNumber()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_epochs": None, "_pickled_place": (self._ranks.rank, self._ranks.world_size)}

    def __copy__(self: Self) -> Self:
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy._control, copy._owner = PassControl(), os.getpid()
        copy._epochs, copy._ranks = None, self._ranks.copy()
        copy._pass_numbers = PassNumbers()
        copy._loader_number = LoaderNumber()
        return copy

    @abstractmethod
    def sample_source(self) -> SampleSource:
        """The part of this dataset that workers receive."""

    @property
    def _num_samples(self) -> int:
        """Those of an epoch without pruning, but for a run's subset."""
        return self.indexed.manifest.num_samples if self._subset is None else int(np.count_nonzero(self._subset))

    def _check_not_closed(self) -> None:
        if self._control.closed:
            raise DATASET.closed()

    def _own_memory(self) -> None:
        """For the loop's process. In a fork, and in a process that has received a pickle, the memory is another's."""
        if self._owner != os.getpid():
            closed = self._control.closed
            self._control, self._owner, self._epochs = PassControl(), os.getpid(), None
            if closed:
                self._control.mark_closed()

    def _among(self, choice: RankChoice) -> Ranks:
        timeouts = self.options.timeouts if self.options is not None else Timeouts()
        return Ranks(choice, timeout_s=timeouts.agree_timeout_s)

    @property
    def _place(self) -> tuple[int, int]:
        """Rank and world size. A worker has them from its loop's process, by a fork or in the pickle."""
        pickled = self._pickled_place
        if pickled is not None and get_worker_info() is not None and not torch.distributed.is_initialized():
            return pickled
        return self._ranks.rank, self._ranks.world_size

    def _validation_pass(self) -> Pass:
        """The pass that begins now: of the number that was set, or of the next one."""
        if self._control.written:
            return self._control.read()
        _, world_size = self._place
        number, begun = self._pass_numbers.begin(self._control, agree=self.shuffled, world_size=world_size)
        return self._validation(number, begun)

    def numbered_with(self, ranks: Ranks) -> tuple[Hashable, ...]:
        """What loaders have in common that are told apart by their numbers alone.

        Replicas have a count of their own, as all of them make the same loaders.
        """
        return self.indexed.manifest.fingerprint, self.options is None, ranks.has_replicas, self.seed

    def _validation(self, number: int, begun: int = 0) -> Pass:
        rank, world_size = self._place
        base_seed = self._base_seed
        # A DataLoader has drawn a seed of its own for its workers.
        apart = 0 if get_worker_info() else self._loader_number.under(base_seed, *self.numbered_with(self._ranks))
        return Pass(
            epoch=number,
            plan_path="",
            start=0,
            batch_size=self.batch_size or 1,
            fills=self.batch_size is not None,
            rank=rank,
            world_size=world_size,
            base_seed=base_seed + begun,
            data_seed=self.seed,
            loader_number=apart,
        )

    @property
    def _base_seed(self) -> int:
        """torch's base seed: in a worker, the one by which its DataLoader seeds all workers of a pass."""
        if self._ranks.has_replicas:
            return self.seed
        worker = get_worker_info()
        return torch.initial_seed() if worker is None else worker.seed - worker.id

    def _live(self) -> PlainEpochs:
        """The part that talks to the server, made at its first use, in the loop's process."""
        if self.options is None:
            raise DATASET.without_run("has no run: no epochs to open, no scores, no state")
        if get_worker_info() is not None:
            raise ConfigError("this is for the process that owns the loop: a DataLoader worker only reads rows")
        if self.batch_size is None:
            raise ConfigError(
                "a plain DataLoader over a run needs the batch size here too: InfoBatchStreamDataset(…, batch_size=B) "
                "and DataLoader(dataset, batch_size=B); or read it through InfoBatchLoader(dataset, batch_size=B)"
            )
        self._own_memory()
        if self._epochs is None:
            from infobatch_client.plain.epochs import PlainEpochs

            number, alike = self._loader_number, self.numbered_with(self._ranks)  # not self: no cycle
            self._epochs = PlainEpochs(
                self.options,
                self.indexed.manifest,
                self.batch_size,
                self._control,
                self._ranks,
                loader_number=lambda base_seed: number.under(base_seed, *alike),
            )
            if self._control.closed:
                self._epochs.close()
        return self._epochs
