"""The calls of a dataset in a plain DataLoader: its epochs, losses and state, in the process that owns the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.utils.data import get_worker_info

from infobatch_client.plain.rows import PlainRows
from infobatch_client.ranks.place import RankChoice
from infobatch_client.tie.collate import TiedCollate
from infobatch_stream.errors import ConfigError
from infobatch_stream.keywords import suggesting
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.ratios import whole_number

if TYPE_CHECKING:
    from infobatch_client.ranks.exchange import Agree
    from infobatch_client.tie.weighting import Losses

__all__ = ["PlainLoading"]

Self = TypeVar("Self", bound="PlainLoading")


class PlainLoading(PlainRows):
    """The half of `InfoBatchStreamDataset` that a plain `torch.utils.data.DataLoader` needs.

    Its methods, but for iterating, are for the process that owns the loop.

    Example:
        >>> dataset = InfoBatchStreamDataset(shards, url=…, run=…, epochs=30, batch_size=64)     # doctest: +SKIP
        >>> loader = DataLoader(dataset.decode().to_tuple("npy", "cls"), batch_size=64)          # doctest: +SKIP
        >>> for epoch in range(dataset.epoch, dataset.num_epochs):                               # doctest: +SKIP
        ...     dataset.set_epoch(epoch)
        ...     for inputs, labels, index, weight in loader:
        ...         loss = dataset.update(criterion(model(inputs), labels), index, weight)
    """

    @property
    def num_epochs(self) -> int:
        """The epochs that the run's schedule is for; 1 for validation."""
        return self.options.schedule.epochs if self.options is not None else 1

    @property
    def epoch(self) -> int:
        """The open epoch, or the next one; a loop begins there, as `for epoch in range(dataset.epoch, …)`."""
        if self.options is None:
            return self._control.read().epoch if self._control.written else 0
        return self._live().loop.epoch

    @property
    def steps(self) -> int:
        """Batches of the open epoch; before it is open, those after a loaded state, or an unpruned one's."""
        return self._live().loop.num_batches

    @property
    def plan(self) -> EpochPlan:
        """The open epoch's plan: which samples are kept, and with which weights. Each look at an array is a copy."""
        return self._live().loop.plan

    @suggesting
    def set_epoch(self, epoch: int) -> None:
        """Opens an epoch and announces it to the workers, persistent ones too. Call it before iterating a DataLoader.

        The first call contacts the server. An epoch that is open, and of which nothing was updated, stays as it is;
        otherwise `epoch` must be the next one, and the one before it ends here at the latest. Before the first epoch,
        without a loaded state, `epoch` > 0 resumes an existing run at the start of that epoch. With policy=None it
        chooses the order of shuffled samples, for all passes until the next call, and need not be called: each pass
        then has another order, except on several ranks.

        Raises:
            ConfigError: `epoch` isn't the next one, or has been updated already; there is no `batch_size`; or closed.
            ServerError: as for `InfoBatchLoader.epochs()`.
        """
        if self.options is None:
            self._own_memory()
            self._check_not_closed()
            self._control.write(self._validation(whole_number(epoch, "epoch")))
        else:
            self._live().set_epoch(epoch)

    @suggesting
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
            ConfigError: an invalid combination, or an epoch is open.
        """
        if self._epochs is not None:
            raise ConfigError("set_ranks() comes before the first epoch")
        self._pickled_place = None
        self._ranks = self._among(
            RankChoice(process_group=process_group, rank=rank, world_size=world_size, replicas=replicas, agree=agree)
        )

    @suggesting
    def collate(self, collate_fn: Callable[[list[Any]], Any] | None = None) -> Callable[[Sequence[Any]], Any]:
        """A collate function for a plain DataLoader, made of one that knows payloads alone.

        It calls `collate_fn` with the list of B payloads, as InfoBatchLoader does, and adds index, int64 (B,), and
        weight, float32 (B,), to its batch as to a row: two more items of a tuple, two more keys (`__index__`,
        `__weight__`) of a dict or another mutable mapping, and (batch, index, weight) of anything else, such as a list
        or a named tuple.

        Args:
            collate_fn: list of B payloads → batch; None: torch's default_collate.

        Returns:
            A callable for `DataLoader(dataset, collate_fn=…)`; picklable if `collate_fn` is.

        Raises:
            ConfigError: `collate_fn` can't be called.

        Example:
            >>> loader = DataLoader(dataset, batch_size=64, collate_fn=dataset.collate(pad))    # doctest: +SKIP
            >>> for inputs, lengths, index, weight in loader:                                   # doctest: +SKIP
            ...     loss = dataset.update(losses_of(model, inputs, lengths), index, weight)
        """
        if collate_fn is not None and not callable(collate_fn):
            raise ConfigError(f"collate_fn={collate_fn!r} can't be called; pass a function of a list of payloads")
        return collate_fn if isinstance(collate_fn, TiedCollate) else TiedCollate(collate_fn)

    @suggesting
    def update(
        self,
        losses: Losses,
        index: torch.Tensor,
        weight: torch.Tensor,
        scores: torch.Tensor | None = None,
        columns: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The weighted mean of a batch's losses, Σ wᵢ·lᵢ / B, to be differentiated; queues their values for the server.

        For every batch, in the order in which they came: one counts as consumed when it is updated, pushed or skipped.
        Another update of the same batch (SAM, LBFGS) replaces its scores. Keep `index` and `weight` on the CPU; from a
        GPU they are waited for.

        Args:
            losses: float tensor (B,) on any device (`reduction="none"`), or a dict of them, which are summed.
            index: int64 (B,), as it came with the batch; rows of −1 fill the batch and are not pushed.
            weight: float32 (B,), as it came with the batch.
            scores: float tensor (B,) to push instead of the losses.
            columns: tensor (B,) by name, of exactly the columns that the run's policy declares as pushed: floats for
                a float column, integers or bools for an integer one; converted to the declared dtype.

        Returns:
            A scalar with its graph, float32 or float64.

        Raises:
            ConfigError: the batch has another number of rows than `batch_size`; or closed.
            LossError: wrong shapes, dtypes or values, missing or unknown columns, or more updates than the epoch has
                batches.
            ServerError: the pusher has stopped: another job has taken over the run, or the run was deleted.
        """
        return self._live().update(losses, index, weight, scores, columns)

    @suggesting
    def push(
        self, scores: torch.Tensor, index: torch.Tensor, columns: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Pushes scores (B,) of a batch, int64 (B,), whose losses the caller reduces with its weights.

        Args:
            scores: float tensor (B,).
            index, columns: as for `update`.
        """
        self._live().push(scores, index, columns)

    def skip(self) -> None:
        """Says that a batch is deliberately not trained: its samples keep their scores, and count as consumed."""
        self._live().skip()

    def state_dict(self) -> dict[str, Any]:
        """The position of the training, as plain values: the batches that were updated, not those that were read.

        In a worker, and for validation, it is empty: a worker of torchdata's StatefulDataLoader asks for it.
        """
        if get_worker_info() is not None or self.options is None:
            return {}
        return self._live().loop.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resumes from a state; before the first epoch is opened.

        Raises:
            StateError: not a dataset's or loader's state, or that of another run or data set; names the field.
            ConfigError: an epoch has been opened already.
        """
        if get_worker_info() is None and self.options is not None:
            self._live().load(state)

    def progress(self) -> float:
        """epoch + consumed / positions of this epoch; `num_epochs` after the last batch."""
        return self._live().loop.progress

    def metrics(self) -> dict[str, float]:
        """Counts and lags, for a log; does not communicate."""
        return self._live().loop.metrics()

    @suggesting
    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until every score pushed so far has reached the server; False when time is up.

        Args:
            timeout_s: at most so long; the timeouts' `flush_timeout_s` by default.
        """
        return self._epochs is None or self._live().loop.flush(timeout_s)

    @suggesting
    def close(self, timeout_s: float | None = None) -> None:
        """Ends the open epoch, sends pending scores (for at most 30 s) and gives the run's lease back. Idempotent.

        The dataset can't be iterated from then on, in workers neither. In a fork it closes the fork's part alone.
        """
        if get_worker_info() is None:
            self._own_memory()
            self._control.mark_closed()
            if self._epochs is not None:
                self._epochs.close(timeout_s)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(None if kind is None else 5.0)
