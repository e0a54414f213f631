"""What makes a dataset work in a plain DataLoader: its rows in the workers, its epochs in the loop's process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.utils.data import get_worker_info

from infobatch_client.plain.row_stream import RefusedRows, RowStream
from infobatch_client.plans.validation import validation_plan
from infobatch_client.ranks.place import RankChoice
from infobatch_client.ranks.ranks import Ranks
from infobatch_client.run.options import RunOptions, Timeouts
from infobatch_client.workers.orphans import end_with_parent
from infobatch_client.workers.pass_control import Pass, PassControl
from infobatch_client.workers.sample_source import SampleSource
from infobatch_stream.errors import ConfigError
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.ratios import whole_number

if TYPE_CHECKING:
    from infobatch_client.plain.epochs import PlainEpochs
    from infobatch_client.ranks.exchange import Agree
    from infobatch_client.shards.index_store import IndexedShards
    from infobatch_client.tie.weighting import Losses

__all__ = ["PlainLoading"]

Self = TypeVar("Self", bound="PlainLoading")


class PlainLoading:
    """The half of `InfoBatchStreamDataset` that a plain `torch.utils.data.DataLoader` needs.

    Its methods, but for iterating, are for the process that owns the loop. A copy, as fluid methods make it, and a
    pickle in another process have no part in an epoch that is open here.

    Example:
        >>> dataset = InfoBatchStreamDataset(shards, url=…, run=…, epochs=30, batch_size=64)     # doctest: +SKIP
        >>> loader = DataLoader(dataset.decode().to_tuple("npy", "cls"), batch_size=64)          # doctest: +SKIP
        >>> for epoch in range(dataset.epoch, dataset.num_epochs):                               # doctest: +SKIP
        ...     dataset.set_epoch(epoch)
        ...     for inputs, labels, index, weight in loader:
        ...         loss = dataset.update(criterion(model(inputs), labels), index, weight)
    """

    options: RunOptions | None
    indexed: IndexedShards
    on_error: str
    max_errors: int
    seed: int
    shuffled: bool
    batch_size: int | None

    def _prepare(self, batch_size: int | None) -> None:
        """What the constructor does: the memory that workers read is there before any of them starts."""
        self.batch_size = None if batch_size is None else whole_number(batch_size, "batch_size", 1)
        self._control = PassControl()
        self._epochs: PlainEpochs | None = None
        self._ranks = self._among(RankChoice())
        self._read_by = 0
        self._worker_place = (0, 1)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_epochs": None, "_worker_place": (self._ranks.rank, self._ranks.world_size)}

    def __copy__(self: Self) -> Self:
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        made._control, made._epochs, made._ranks = PassControl(), None, self._ranks.copy()
        return made

    @property
    def stages(self) -> Sequence[Any]:
        """The webdataset stages after the reader."""
        raise NotImplementedError

    def sample_source(self) -> SampleSource:
        """What workers are handed of this dataset."""
        raise NotImplementedError

    @property
    def num_epochs(self) -> int:
        """The epochs that the run's schedule is for; 1 for validation."""
        return self.options.schedule.epochs if self.options is not None else 1

    @property
    def epoch(self) -> int:
        """The open epoch, or the one that comes next: where `for epoch in range(dataset.epoch, …)` begins."""
        if self.options is None:
            return self._validation_pass().epoch
        return self._live().epoch

    @property
    def steps(self) -> int:
        """Batches of the open epoch; before it is open, what a loaded state leaves of it, or an unpruned epoch's."""
        return self._live().steps

    @property
    def plan(self) -> EpochPlan:
        """The open epoch's plan: which samples are kept, and with which weights."""
        return self._live().plan

    def set_epoch(self, epoch: int) -> None:
        """Opens an epoch and tells the workers, persistent ones too. To be called before iterating over a DataLoader.

        The first call contacts the server. An epoch that is open, and of which nothing was updated, stays as it is;
        otherwise `epoch` must be the next one, and the one before it ends here at the latest. Before the first epoch,
        without a loaded state, `epoch` > 0 goes on at the start of that epoch of an existing run. With policy=None it
        chooses the order of shuffled samples, and need not be called.

        Raises:
            ConfigError: `epoch` isn't the next one, or has been updated in already, or there is no `batch_size`.
            ServerError: as for `InfoBatchLoader.epochs()`.
        """
        if self.options is None:
            self._control.write(self._validation(whole_number(epoch, "epoch")))
        else:
            self._live().set_epoch(epoch)

    def set_ranks(
        self,
        *,
        process_group: Any = None,
        rank: int | None = None,
        world_size: int | None = None,
        replicas: Any = None,
        agree: Agree | None = None,
    ) -> None:
        """Says which processes train together, as `InfoBatchLoader`'s arguments of the same names do.

        Before the first epoch, and after the last fluid method; by default torch.distributed's world.

        Raises:
            ConfigError: a combination that can't be meant, or an epoch is open.
        """
        if self._epochs is not None:
            raise ConfigError("set_ranks() comes before the first epoch")
        self._ranks = self._among(
            RankChoice(process_group=process_group, rank=rank, world_size=world_size, replicas=replicas, agree=agree)
        )

    def update(
        self, losses: Losses, index: torch.Tensor, weight: torch.Tensor, scores: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The weighted mean of a batch's losses, Σ wᵢ·lᵢ / B, to be differentiated; their values go to the server.

        For every batch, in the order in which they came: one counts as consumed when it is updated, pushed or skipped.
        The same batch again (SAM, LBFGS) replaces what was given before. Keep `index` and `weight` on the CPU; from a
        GPU they are waited for.

        Args:
            losses: float tensor (B,) on any device (`reduction="none"`), or a dict of them, which are summed.
            index: int64 (B,), as the batch gave it; rows of −1 fill the batch and are not pushed.
            weight: float32 (B,), as the batch gave it.
            scores: float tensor (B,) to push instead of the losses.

        Returns:
            A scalar with its graph, float32 or float64.

        Raises:
            ConfigError: the batch has another number of rows than `batch_size`.
            LossError: wrong shapes, dtypes or values, or more updates than the epoch has batches.
            ServerError: the server has told the pusher to stop.
        """
        return self._live().update(losses, index, weight, scores)

    def push(self, scores: torch.Tensor, index: torch.Tensor) -> None:
        """Pushes scores (B,) of a batch, int64 (B,), whose losses the caller reduces with its weights."""
        self._live().push(scores, index)

    def skip(self) -> None:
        """Says that a batch is deliberately not trained: its samples keep their scores, and count as consumed."""
        self._live().skip()

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, as plain values. In a plain DataLoader that is what was updated, not what was read.

        In a worker, and for validation, it is empty: a worker of torchdata's StatefulDataLoader asks for it.
        """
        if get_worker_info() is not None or self.options is None:
            return {}
        return self._live().state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where a state says; before the first epoch is opened.

        Raises:
            StateError: no state of a dataset or loader, or one of another run or data set; names the field.
            ConfigError: an epoch has been opened already.
        """
        if get_worker_info() is None and self.options is not None:
            self._live().load(state)

    def progress(self) -> float:
        """epoch + consumed / positions of this epoch; `num_epochs` after the last batch."""
        return self._live().progress

    def metrics(self) -> dict[str, float]:
        """Counts and lags, for a log; communicates with nobody."""
        return self._live().metrics()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until every score given so far has reached the server; False when time is up.

        Args:
            timeout_s: at most so long; the timeouts' `flush_timeout_s` by default.
        """
        return self._epochs is None or self._live().flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Ends the open epoch, sends what is left (for at most 30 s) and gives the run's lease back. Idempotent."""
        if self._epochs is not None and self._epochs.pid == os.getpid():
            self._epochs.close(timeout_s)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(None if kind is None else 5.0)

    def __len__(self) -> int:
        """Rows that a DataLoader gets of the open epoch, those that fill included; before it, of an unpruned one.

        With it `len(DataLoader(dataset, batch_size=B))` is the epoch's number of batches, for any number of workers.
        Without a `batch_size` it is the number of samples.
        """
        if self.batch_size is None:
            return self.indexed.manifest.num_samples
        if self.options is None:
            per_step = self.batch_size * self._place[1]
            return -(-self.indexed.manifest.num_samples // per_step) * self.batch_size
        return self._live().steps * self.batch_size

    def __iter__(self) -> Iterator[Any]:
        """The rows of one pass, with their ties; in a DataLoader worker, this worker's.

        Outside of workers it opens the next epoch by itself where `set_epoch` wasn't called.
        """
        if (info := get_worker_info()) is None:
            given = self._validation_pass() if self.options is None else self._live().begin_pass()
            rows = self._rows(given, 0, 1)
            if self.options is not None:
                self._live().reads(rows)
            return rows
        end_with_parent()
        try:
            given = self._validation_pass() if self.options is None else self._workers_pass()
            return self._rows(given, info.id, info.num_workers)
        except Exception as error:
            return RefusedRows(error)

    def _among(self, choice: RankChoice) -> Ranks:
        timeouts = self.options.timeouts if self.options is not None else Timeouts()
        return Ranks(choice, timeout_s=timeouts.agree_timeout_s)

    def _rows(self, given: Pass, worker: int, workers: int) -> RowStream:
        plan: EpochPlan | None = None
        if self.options is None and self.shuffled:
            plan = validation_plan(self.indexed.manifest, seed=self.seed, number=given.epoch)
        return RowStream(
            self.sample_source(),
            self._control,
            given,
            plan=plan,
            worker=worker,
            workers=workers,
            trains=self.options is not None,
        )

    def _workers_pass(self) -> Pass:
        """What the loop's process has opened, in a worker."""
        first = self._read_by != os.getpid()
        self._read_by = os.getpid()
        if not self._control.written:
            raise ConfigError(
                "no epoch is open: call dataset.set_epoch(epoch), in the process that owns the loop, before iterating "
                "over the DataLoader; workers don't talk to the server"
            )
        given = self._control.read()
        if self._control.updated_at_start if first else self._control.updated:
            raise ConfigError(
                f"a second pass over epoch {given.epoch} after updates: a sample is trained once in an epoch; call "
                f"dataset.set_epoch({given.epoch + 1}) before iterating over the DataLoader again"
            )
        return given

    def _validation_pass(self) -> Pass:
        return self._control.read() if self._control.written else self._validation(0)

    def _validation(self, number: int) -> Pass:
        rank, world_size = self._place
        return Pass(
            epoch=number,
            plan_path="",
            start=0,
            batch_size=self.batch_size or 1,
            rank=rank,
            world_size=world_size,
        )

    @property
    def _place(self) -> tuple[int, int]:
        """Rank and world size. A worker has them from its loop's process, by a fork or in what was pickled."""
        if get_worker_info() is not None and not torch.distributed.is_initialized():
            return self._worker_place
        return self._ranks.rank, self._ranks.world_size

    def _live(self) -> PlainEpochs:
        """The part that talks to the server, made at its first use, in the loop's process."""
        if self.options is None:
            raise ConfigError("a validation dataset (policy=None) has no run: no epochs to open, no scores, no state")
        if get_worker_info() is not None:
            raise ConfigError("this is for the process that owns the loop: a DataLoader worker only reads rows")
        if self.batch_size is None:
            raise ConfigError(
                "a plain DataLoader over a run needs the batch size here too: InfoBatchStreamDataset(…, batch_size=B) "
                "and DataLoader(dataset, batch_size=B); or read it through InfoBatchLoader(dataset, batch_size=B)"
            )
        if self._epochs is None or self._epochs.pid != os.getpid():
            from infobatch_client.plain.epochs import PlainEpochs

            if self._epochs is not None:
                self._control = PassControl()  # this process is a fork: the memory is the other one's
            self._epochs = PlainEpochs(self.options, self.indexed.manifest, self.batch_size, self._control, self._ranks)
        return self._epochs
