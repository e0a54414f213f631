"""The loader: batches of an epoch's kept samples, and the way back for their losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, SupportsIndex

import torch

from infobatch_client.dataset import InfoBatchStreamDataset
from infobatch_client.epochs.holder import LOADER
from infobatch_client.epochs.loop import EpochLoop
from infobatch_client.epochs.loss_calls import LossCalls
from infobatch_client.epochs.returned import ReturnedBatches
from infobatch_client.epochs.source import EpochSource
from infobatch_client.epochs.training import TrainingEpochs
from infobatch_client.epochs.validation import ValidationEpochs
from infobatch_client.foreign_options import DATA_LOADER, NOT_THE_LOADERS, WithoutFluidMethods, refusing
from infobatch_client.ranks.exchange import Agree
from infobatch_client.ranks.place import RankChoice
from infobatch_client.ranks.ranks import Ranks
from infobatch_client.run.options import Timeouts
from infobatch_client.tie.collate import TiedCollate
from infobatch_client.tie.ticket import Ticket
from infobatch_client.workers.drop_watch import DropWatch
from infobatch_client.workers.loader_number import LoaderNumber
from infobatch_client.workers.pass_control import Pass
from infobatch_client.workers.pool import WorkerPool
from infobatch_stream.errors import ConfigError
from infobatch_stream.keywords import suggesting
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.ratios import whole_number

__all__ = ["InfoBatchLoader"]


class InfoBatchLoader(LossCalls, WithoutFluidMethods):
    """Batches of exactly `batch_size` rows, in plan order, from `num_workers` processes.

    Copies of weight 0 fill a batch that lacks rows: the last one of an epoch, or one of which a stage dropped samples
    or some can't be read; with `compact=True` it stays short. The server is contacted when the first epoch is opened,
    not before. For one thread; after a fork the child must make its own.

    Args:
        dataset: shards, run and pipeline.
        batch_size: B, rows by batch.
        num_workers: processes that read and decode; 0 does it in this one. The order is the same for any number.
        collate_fn: list of B payloads → batch; torch's default_collate by default. It never sees the tie, and its batch
            comes back as it is. A dict of the default one has `__index__` and `__weight__` too.
        compact: batches come with their real rows only, from 1 to B of them: for losses that compare rows with each
            other, such as CLIP's. Weights stay the plan's, and `update` divides by B all the same. A batch without any
            real row, which a rank needs to keep step with the others, has one row of weight 0.
        pin_memory: as in torch's DataLoader.
        prefetch_factor: batches that each worker makes ahead.
        remainder: "fill", or "drop": leaves out the last samples that don't fill a batch.
        multiprocessing_context: "fork", "spawn" or "forkserver"; torch's default by default.
        worker_init_fn: as in torch's DataLoader. torch, numpy and `random` are seeded anew for each batch after it.
        process_group: the torch.distributed group whose ranks train together, each on batches of its own (the
            data-parallel group); the world by default. Every rank gets as many batches as the others.
        rank, world_size: instead of it.
        replicas: the group inside which batches are identical (tensor, context or pipeline parallel); its first rank
            pushes the scores.
        agree: for ranks without torch.distributed: from this rank's text to every rank's, in rank order (such as
            mpi4py's `comm.allgather`). Called at the start of an epoch, alike on all ranks.

    Raises:
        ConfigError: an invalid argument, or a closed dataset.
        RanksError: at the start of an epoch: the ranks differ in batch_size, shards, state, position, …, or one of
            them has failed or died.

    Example:
        >>> for epoch in loader.epochs():                                   # doctest: +SKIP
        ...     for images, labels in loader:
        ...         loss = loader.update(criterion(model(images), labels))
        ...         optimizer.zero_grad(); loss.backward(); optimizer.step()
    """

    @refusing(DATA_LOADER | NOT_THE_LOADERS)
    def __init__(
        self,
        dataset: InfoBatchStreamDataset,
        batch_size: int,
        num_workers: int = 0,
        *,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        prefetch_factor: int = 2,
        remainder: Literal["fill", "drop"] = "fill",
        compact: bool = False,
        multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = None,
        worker_init_fn: Callable[[int], None] | None = None,
        process_group: Any = None,
        rank: int | None = None,
        world_size: int | None = None,
        replicas: Any = None,
        agree: Agree | None = None,
    ) -> None:
        _check(dataset, remainder, compact)
        if isinstance(collate_fn, TiedCollate):
            raise ConfigError(
                "dataset.collate(…) is for a plain DataLoader: InfoBatchLoader takes collate_fn= as it is"
            )
        if batch_size is None:
            raise ConfigError(
                "batch_size=None is for a dataset that makes batches itself; here the loader makes them: batch_size=B"
            )
        self.batch_size = batch_size = whole_number(batch_size, "batch_size", 1)
        if dataset.batch_size not in (None, batch_size):
            raise ConfigError(
                f"batch_size={batch_size} here and batch_size={dataset.batch_size} at the dataset: leave it out there, "
                "it is for a plain DataLoader"
            )
        self._ranks = Ranks(
            RankChoice(process_group=process_group, rank=rank, world_size=world_size, replicas=replicas, agree=agree),
            timeout_s=(dataset.options.timeouts if dataset.options else Timeouts()).agree_timeout_s,
        )
        self._number, self._alike, self._data_seed = LoaderNumber(), dataset.numbered_with(self._ranks), dataset.seed
        self._workers = WorkerPool(
            dataset.sample_source(),
            whole_number(num_workers, "num_workers"),
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            prefetch_factor=whole_number(prefetch_factor, "prefetch_factor", 1),
            multiprocessing_context=multiprocessing_context,
            worker_init_fn=worker_init_fn,
            compact=compact,
        )
        self._epochs = EpochLoop(
            _source(dataset, self._ranks, batch_size, remainder),
            holder=LOADER,
            ranks=self._ranks,
            batch_size=batch_size,
            drop_remainder=remainder == "drop",
            release=self._workers.close,
        )
        remembers = dataset.options is not None and dataset.options.drops == "remember"
        watch = DropWatch(self._workers.control, trains=self._epochs.trains, remembers=remembers, compact=compact)
        self._returned = ReturnedBatches(
            self._epochs.sequence,
            lambda epoch, over: watch.find(
                epoch.opening.world_size, over=over, plan=epoch.plan if epoch.plan_path else None
            ),
        )

    @property
    def num_epochs(self) -> int:
        """The epochs that the run's schedule is for; 1 for validation."""
        return self._epochs.num_epochs

    @property
    def trains(self) -> bool:
        """False for validation (policy=None), where nothing is pruned and no losses are taken."""
        return self._epochs.trains

    @property
    def epoch(self) -> int:
        """The open epoch, or the one that comes next."""
        return self._epochs.epoch

    @property
    def plan(self) -> EpochPlan:
        """The open epoch's plan: which samples are kept, and with which weights. Each look at an array is a copy."""
        return self._epochs.plan

    @property
    def grad_scale(self) -> float:
        """N/K of the open epoch: one step's expected gradient, over that of a step without pruning.

        The epoch's sum of gradients stays as it is, in K/N as many steps. Terms that aren't weighed by sample, such as
        weight decay, shrink by K/N in an epoch; multiply them by this factor if that matters.
        """
        plan = self.plan
        return (plan.kept + plan.pruned) / max(1, plan.kept)

    @suggesting
    def epochs(self, max_steps: SupportsIndex | None = None) -> Iterator[int]:
        """The remaining epochs, each opened as it is yielded: 0 … C−1, or from a loaded state's on.

        Leaving an epoch early (`break`) ends it when the next is opened, or `epochs()` is called again; an epoch of
        which nothing was updated is yielded again instead.

        Args:
            max_steps: ends the training after so many batches from here on, in mid-epoch if need be. `len(loader)` of
                the last epoch is the number of batches that it will return. A state that is saved then resumes inside
                that epoch, in a new loader; `epochs()` of this one begins with the next epoch, as after a `break`.

        Raises:
            ConfigError: max_steps is not a whole number above 0, or the loader is closed.
        """
        return self._epochs.sequence.epochs(max_steps)

    @suggesting
    def set_epoch(self, epoch: SupportsIndex) -> None:
        """Opens an epoch, and ends the open one; for loops that count their epochs themselves.

        Calling it again before anything is updated changes nothing. With validation (policy None) the number chooses
        the order of shuffled samples for all passes until the next call; without a call, each pass has another one,
        except on several ranks.

        Args:
            epoch: the next one, as `loader.epoch` says. Before the first epoch, if no state was loaded, a number above
                0 resumes an existing run at the start of that epoch.

        Raises:
            ConfigError: another number than the next, which the message names; or the loader is closed.
        """
        self._epochs.sequence.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        """One pass over the open epoch; opens the next one if none is open."""
        return (batch for _, batch in self._begin_pass())

    def ticketed(self) -> Iterator[tuple[Ticket, Any]]:
        """One pass like `iter(loader)`, with a ticket for `update(losses, batch=ticket)` beside every batch.

        For loops that take further batches before they update the present one.
        """
        return self._begin_pass()

    def __len__(self) -> int:
        """Batches of the open epoch; before it is open, those after a loaded state, or an unpruned one's."""
        return self._epochs.num_batches

    def progress(self) -> float:
        """epoch + consumed / positions of this epoch; strictly increasing, `num_epochs` after the last batch."""
        return self._epochs.progress

    def metrics(self) -> dict[str, float]:
        """Counts and lags, for a log; does not communicate.

        `epoch_gap_s`: seconds from an epoch's last batch to the first of the next, as they were returned; from the
        second epoch on.
        """
        gap_s = self._returned.gap_s
        return self._epochs.metrics() | ({} if gap_s is None else {"epoch_gap_s": gap_s})

    def state_dict(self) -> dict[str, Any]:
        """The position of the training, as plain values; the same on every rank. Call it after a batch's update."""
        return self._epochs.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resumes from a state; before the first epoch is opened.

        Raises:
            StateError: not a loader's state, or that of another run or data set; names the field.
            ConfigError: an epoch has been opened already.
        """
        self._epochs.load(state)

    @suggesting
    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until every score pushed so far has reached the server.

        Args:
            timeout_s: at most so long; the timeouts' `flush_timeout_s` by default.

        Returns:
            False when time is up, or the pusher has stopped (the next `update` says why).
        """
        return self._epochs.flush(timeout_s)

    @suggesting
    def close(self, timeout_s: float | None = None) -> None:
        """Ends the open epoch, sends pending scores (for at most 30 s) and gives the run's lease back. Idempotent."""
        self._epochs.close(timeout_s)

    def __enter__(self) -> InfoBatchLoader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(None if kind is None else 5.0)

    def _begin_pass(self) -> Iterator[tuple[Ticket, Any]]:
        epoch = self._epochs.sequence.for_pass()
        base_seed = torch.initial_seed() if epoch.base_seed is None else epoch.base_seed
        pass_ = Pass.over(
            epoch.opening,
            epoch=epoch.number if epoch.pass_number is None else epoch.pass_number,
            plan_path=epoch.plan_path,
            rank=self._ranks.rank,
            generation=epoch.generation,
            base_seed=base_seed,
            data_seed=self._data_seed,
            loader_number=self._number.under(base_seed, *self._alike),
        )
        return self._returned.of_pass(epoch, self._workers.batches(pass_))


def _source(dataset: InfoBatchStreamDataset, ranks: Ranks, batch_size: int, remainder: str) -> EpochSource:
    manifest = dataset.indexed.manifest
    if dataset.options is None:
        base_seed = dataset.seed if ranks.has_replicas else None
        return ValidationEpochs(
            manifest,
            seed=dataset.seed,
            shuffle=dataset.shuffled,
            ranks=ranks,
            subset=dataset._subset,
            base_seed=base_seed,
        )
    return TrainingEpochs(dataset.options, manifest, ranks=ranks, batch_size=batch_size, remainder=remainder)


def _check(dataset: object, remainder: str, compact: object) -> None:
    if not isinstance(dataset, InfoBatchStreamDataset):
        raise ConfigError(f"dataset is a {type(dataset).__name__}; InfoBatchLoader reads an InfoBatchStreamDataset")
    if remainder not in ("fill", "drop"):
        raise ConfigError(f"remainder={remainder!r} is neither 'fill' nor 'drop'")
    if not isinstance(compact, bool):
        raise ConfigError(f"compact={compact!r} is a {type(compact).__name__}; give True or False")
