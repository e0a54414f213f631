"""The loader: batches of an epoch's kept samples, and the way back for their losses."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, SupportsIndex

import torch

from infobatch_client.dataset import InfoBatchStreamDataset
from infobatch_client.epochs.sequence import EpochSequence
from infobatch_client.epochs.source import EpochSource
from infobatch_client.epochs.training import TrainingEpochs
from infobatch_client.epochs.validation import ValidationEpochs
from infobatch_client.ranks.exchange import Agree
from infobatch_client.ranks.place import RankChoice
from infobatch_client.ranks.ranks import Ranks
from infobatch_client.run.options import Timeouts
from infobatch_client.tie.ticket import Ticket, checked_ticket
from infobatch_client.tie.weighting import Losses, checked_losses, host_scores, weighted_mean
from infobatch_client.workers.pass_control import Pass
from infobatch_client.workers.pool import WorkerPool
from infobatch_stream.errors import ConfigError, LossError
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.plan.opening import Opening
from infobatch_stream.ratios import whole_number

__all__ = ["InfoBatchLoader"]


class InfoBatchLoader:
    """Batches of exactly `batch_size` rows, in plan order, from `num_workers` processes.

    What is missing in a batch (the remainder of an epoch, samples that a stage dropped or that can't be read) is
    filled with repeats of weight 0. Nothing is contacted before the first epoch is opened. For one thread; after
    a fork the child must make its own.

    Args:
        dataset: shards, run and pipeline.
        batch_size: B, rows by batch.
        num_workers: processes that read and decode; 0 does it in this one. The order is the same for any number.
        collate_fn: list of B payloads → batch; torch's default_collate by default. It never sees the tie.
        pin_memory: as in torch's DataLoader.
        prefetch_factor: batches made ahead by each worker.
        remainder: "fill", or "drop": leaves out the last samples that don't fill a batch.
        multiprocessing_context: "fork", "spawn" or "forkserver"; torch's default by default.
        worker_init_fn: as in torch's DataLoader.
        process_group: the torch.distributed group whose ranks train together, each on batches of its own (the
            data-parallel group); the world by default. Every rank gets as many batches as the others.
        rank, world_size: instead of it.
        replicas: the group inside which batches are identical (tensor, context or pipeline parallel); its first rank
            pushes the scores.
        agree: for ranks without torch.distributed: gives every rank's text, in rank order, for this rank's (such as
            mpi4py's `comm.allgather`). Called at the start of an epoch, alike on all ranks.

    Raises:
        ConfigError: an argument that can't be meant.
        RanksError: at the start of an epoch: the ranks differ in batch_size, shards, state, position, …, or one of
            them has failed or is gone.

    Example:
        >>> for epoch in loader.epochs():                                   # doctest: +SKIP
        ...     for images, labels in loader:
        ...         loss = loader.update(criterion(model(images), labels))
        ...         optimizer.zero_grad(); loss.backward(); optimizer.step()
    """

    def __init__(
        self,
        dataset: InfoBatchStreamDataset,
        batch_size: int,
        num_workers: int = 0,
        *,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        prefetch_factor: int = 2,
        remainder: str = "fill",
        multiprocessing_context: str | None = None,
        worker_init_fn: Callable[[int], None] | None = None,
        process_group: Any = None,
        rank: int | None = None,
        world_size: int | None = None,
        replicas: Any = None,
        agree: Agree | None = None,
    ) -> None:
        _check(dataset, remainder)
        self.batch_size = batch_size = whole_number(batch_size, "batch_size", 1)
        if dataset.batch_size not in (None, batch_size):
            raise ConfigError(
                f"batch_size={batch_size} here and batch_size={dataset.batch_size} at the dataset: leave it out there, "
                "it is for a plain DataLoader"
            )
        self._drop = remainder == "drop"
        self._ranks = Ranks(
            RankChoice(process_group=process_group, rank=rank, world_size=world_size, replicas=replicas, agree=agree),
            timeout_s=(dataset.options.timeouts if dataset.options else Timeouts()).agree_timeout_s,
        )
        self._source: EpochSource = (
            ValidationEpochs(dataset.indexed.manifest, seed=dataset.seed, shuffle=dataset.shuffled)
            if dataset.options is None
            else TrainingEpochs(
                dataset.options,
                dataset.indexed.manifest,
                ranks=self._ranks,
                batch_size=batch_size,
                remainder=remainder,
            )
        )
        self._workers = WorkerPool(
            dataset.sample_source(),
            whole_number(num_workers, "num_workers"),
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            prefetch_factor=whole_number(prefetch_factor, "prefetch_factor", 1),
            multiprocessing_context=multiprocessing_context,
            worker_init_fn=worker_init_fn,
            seed=dataset.seed,
        )
        self._opening = partial(_opening, self._ranks, batch_size, self._drop)
        self._epochs = EpochSequence(self._source, self._opening)
        # An iterator may outlive its loader, and holds the sequence. Also called at the interpreter's exit.
        weakref.finalize(self._epochs, _release, self._source, self._workers, os.getpid())

    @property
    def num_epochs(self) -> int:
        """The epochs that the run's schedule is for; 1 for validation."""
        return self._source.num_epochs

    @property
    def trains(self) -> bool:
        """False for validation (policy=None), where nothing is pruned and no losses are taken."""
        return self._source.trains

    @property
    def epoch(self) -> int:
        """The open epoch, or the one that comes next."""
        return self._epochs.open.number if self._epochs.open is not None else self._source.next_epoch

    @property
    def plan(self) -> EpochPlan:
        """The open epoch's plan: which samples are kept, and with which weights."""
        return self._epochs.opened().plan

    @property
    def grad_scale(self) -> float:
        """N/K of the open epoch: how much larger one step's expected gradient is than without pruning (§ README)."""
        plan = self.plan
        return (plan.kept + plan.pruned) / max(1, plan.kept)

    def epochs(self, max_steps: SupportsIndex | None = None) -> Iterator[int]:
        """The epochs that are left, each opened as it is yielded: 0 … C−1, or from where a loaded state says.

        Leaving an epoch early (`break`) ends it when the next is opened, or `epochs()` is called again; an epoch of
        which nothing was updated is given again instead.

        Args:
            max_steps: ends the training after so many batches from here on, in mid-epoch if need be. `len(loader)`
                of the last epoch is what it will give. A state saved then goes on inside that epoch, in a new
                loader; `epochs()` of this one goes on with the next epoch, as after a `break`.

        Raises:
            ConfigError: max_steps is no whole number above 0.
        """
        return self._epochs.epochs(max_steps)

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """Opens an epoch, and ends the open one; for loops that count their epochs themselves.

        Calling it again before anything is updated changes nothing. With validation (policy None) the number chooses
        the order.

        Args:
            epoch: the next one, as `loader.epoch` says. Before the first epoch, where no state was loaded, a number
                above 0 goes on with a run that exists, at the start of that epoch.

        Raises:
            ConfigError: another number than the next; the message says which that is.
        """
        self._epochs.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        """One pass over the open epoch; opens the next one where none is open."""
        return (batch for _, batch in self._begin_pass())

    def ticketed(self) -> Iterator[tuple[Ticket, Any]]:
        """One pass like `iter(loader)`, with a ticket for `update(losses, batch=ticket)` beside every batch.

        For loops that take batches before the ones before are updated.
        """
        return self._begin_pass()

    def update(
        self,
        losses: Losses,
        scores: torch.Tensor | None = None,
        batch: Ticket | None = None,
        rows: slice | None = None,
    ) -> torch.Tensor:
        """The weighted mean of a batch's losses, to be differentiated; their values go to the server by themselves.

        Σ wᵢ·lᵢ / B: over an epoch its sum is in expectation that of the unpruned losses (paper Eq. 6–8). Returns
        within microseconds: nothing is sent here, and a GPU isn't waited for. The same batch again (SAM, LBFGS)
        replaces what was given before.

        Args:
            losses: float tensor (B,) on any device (`reduction="none"`), or a dict of them, which are summed.
            scores: float tensor (B,) to push instead of the losses.
            batch: which batch; by default the one returned last.
            rows: only these rows of it, a micro-batch: `losses` and `scores` are of its length n, and the mean is
                Σ wᵢ·lᵢ / n. With A equal micro-batches, divide by A as always. The batch counts as updated once all
                of its rows are.

        Returns:
            A scalar with its graph, float32 or float64.

        Raises:
            LossError: wrong shape or dtype, rows that aren't there, or it isn't clear which batch is meant.
            ServerError: the server has told the pusher to stop: another job has taken the run over, or it is gone.
        """
        opened, ticket, part = self._epochs.due(batch, rows)
        checked = checked_losses(losses, len(part.weight))
        pushed = checked if scores is None else checked_losses(scores, len(part.weight), "scores")
        value = weighted_mean(checked, part.weight)
        self._source.push(part, host_scores(pushed))
        self._epochs.settle(opened, ticket, rows)
        return value

    def push(self, scores: torch.Tensor, batch: Ticket | None = None, rows: slice | None = None) -> None:
        """Pushes scores of a batch whose losses the caller reduces (with `weights()`); it counts as updated.

        Args:
            scores: float tensor (B,), or (n,) with `rows`.
            batch, rows: as for `update`.
        """
        opened, ticket, part = self._epochs.due(batch, rows)
        self._source.push(part, host_scores(checked_losses(scores, len(part.weight), "scores")))
        self._epochs.settle(opened, ticket, rows)

    def skip(self, batch: Ticket | None = None) -> None:
        """Says that a batch, or what is left of it, is deliberately not trained: its samples keep their scores.

        Args:
            batch: which batch; by default every batch that awaits its update.
        """
        opened = self._epochs.trained()
        for ticket in [opened.due(batch)] if batch is not None else list(opened.awaiting.values()):
            self._epochs.settle(opened, ticket)

    def weights(self, batch: Ticket | None = None, rows: slice | None = None) -> torch.Tensor:
        """Weights float32 (B,) of a batch, or of its `rows`; 0 in rows that only fill it up.

        Args:
            batch: which batch; by default the one returned last.
            rows: only these rows of it.
        """
        ticket = self._epochs.newest if batch is None else checked_ticket(batch)
        if ticket is None:
            raise LossError("weights() before the first batch")
        return torch.from_numpy(ticket.part(rows).weight)

    def __len__(self) -> int:
        """Batches of the open epoch; before it is open, what a loaded state leaves of it, or an unpruned epoch's."""
        if self._epochs.open is not None:
            return self._epochs.open.num_batches
        positions, consumed = self._source.ahead
        return self._opening(num_positions=positions, start=consumed).num_steps

    def progress(self) -> float:
        """epoch + consumed / positions of this epoch; strictly increasing, `num_epochs` after the last batch."""
        return self._source.progress if self._epochs.open is None else self._epochs.open.progress

    def metrics(self) -> dict[str, float]:
        """Counts and lags, for a log; communicates with nobody.

        `epoch_gap_s`: seconds from an epoch's last batch to the first of the next, as they were returned; from the
        second epoch on.
        """
        found: dict[str, float] = dict(self._source.metrics())
        if self._epochs.gap_s is not None:
            found["epoch_gap_s"] = self._epochs.gap_s
        return found if self._epochs.open is None else found | self._epochs.open.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, as plain values; the same on every rank. Call it after a batch's update."""
        return self._source.state(self._epochs.open)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where a state says; before the first epoch is opened.

        Raises:
            StateError: no state of this loader, or one of another run or data set; names the field.
            ConfigError: an epoch has been opened already.
        """
        if self._epochs.open is not None:
            raise ConfigError("load_state_dict() comes before the first epoch: make a new loader to load a state")
        self._source.load(state)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until every score given so far has reached the server.

        Args:
            timeout_s: at most so long; the timeouts' `flush_timeout_s` by default.

        Returns:
            False when time is up, or the server has told the pusher to stop (the next `update` says why).
        """
        return self._source.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Ends the open epoch, sends what is left (for at most 30 s) and gives the run's lease back. Idempotent."""
        try:
            self._epochs.close()
        finally:
            self._workers.close()
            self._source.close(timeout_s)

    def __enter__(self) -> InfoBatchLoader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(None if kind is None else 5.0)

    def _begin_pass(self) -> Iterator[tuple[Ticket, Any]]:
        opened = self._epochs.for_pass()
        batches = self._workers.batches(
            Pass(
                epoch=opened.number,
                plan_path=opened.plan_path,
                start=opened.opening.start,
                batch_size=self.batch_size,
                rank=self._ranks.rank,
                world_size=self._ranks.world_size,
                drop_remainder=self._drop,
            )
        )
        return self._epochs.give(opened, batches)


def _opening(ranks: Ranks, batch_size: int, drop: bool, *, num_positions: int, start: int) -> Opening:
    return Opening(
        num_positions=num_positions,
        start=start,
        batch_size=batch_size,
        world_size=ranks.world_size,
        drop_remainder=drop,
    )


def _check(dataset: object, remainder: str) -> None:
    if not isinstance(dataset, InfoBatchStreamDataset):
        raise ConfigError(f"dataset is a {type(dataset).__name__}; InfoBatchLoader reads an InfoBatchStreamDataset")
    if remainder not in ("fill", "drop"):
        raise ConfigError(f"remainder={remainder!r} is neither 'fill' nor 'drop'")


def _release(source: EpochSource, workers: WorkerPool, pid: int) -> None:
    """Flushes for at most 5 s where an exception ends the program. A forked child releases nothing."""
    if os.getpid() != pid:
        return
    workers.close()
    source.close(5.0 if getattr(sys, "last_value", None) is not None else None)
