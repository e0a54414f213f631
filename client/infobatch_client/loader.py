"""The loader: batches of an epoch's kept samples, and the way back for their losses."""

from __future__ import annotations

import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from infobatch_client.batch_stream import TiedBatch
from infobatch_client.dataset import InfoBatchStreamDataset
from infobatch_client.epoch_control import Pass
from infobatch_client.epoch_life import OpenEpoch, Ticket, with_tie
from infobatch_client.epoch_source import EpochSource, TrainingEpochs, ValidationEpochs
from infobatch_client.exchange import Agree
from infobatch_client.ranks import RankChoice, Ranks
from infobatch_client.run_options import Timeouts
from infobatch_client.weighting import Losses, checked_losses, host_copy, weighted_mean
from infobatch_client.whole_number import whole_number
from infobatch_client.worker_pool import WorkerPool
from infobatch_stream.errors import ConfigError, LossError
from infobatch_stream.opening import Opening
from infobatch_stream.plan import EpochPlan

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
        self._drop = remainder == "drop"
        self._ranks = Ranks(
            RankChoice(process_group=process_group, rank=rank, world_size=world_size, replicas=replicas, agree=agree),
            timeout_s=(dataset.options.timeouts if dataset.options else Timeouts()).agree_timeout_s,
        )
        self._source: EpochSource = (
            ValidationEpochs(dataset)
            if dataset.options is None
            else TrainingEpochs(dataset, ranks=self._ranks, batch_size=batch_size, remainder=remainder)
        )
        self._workers = WorkerPool(
            dataset,
            whole_number(num_workers, "num_workers"),
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            prefetch_factor=whole_number(prefetch_factor, "prefetch_factor", 1),
            multiprocessing_context=multiprocessing_context,
            worker_init_fn=worker_init_fn,
        )
        self._open: OpenEpoch | None = None
        self._weights: torch.Tensor | None = None
        self._pass = 0
        self._closed = False
        weakref.finalize(self, _release, self._source, self._workers, os.getpid())  # also at the interpreter's exit

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
        return self._open.number if self._open is not None else self._source.next_epoch

    @property
    def plan(self) -> EpochPlan:
        """The open epoch's plan: which samples are kept, and with which weights."""
        return self._opened().plan

    @property
    def grad_scale(self) -> float:
        """N/K of the open epoch: how much larger one step's expected gradient is than without pruning (§ README)."""
        plan = self.plan
        return (plan.kept + plan.pruned) / max(1, plan.kept)

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, each opened as it is yielded: 0 … C−1, or from where a loaded state says.

        Leaving an epoch early (`break`) ends it when the next is opened, or `epochs()` is called again.
        """
        self._end_epoch()
        self._source.start_over()
        while self._source.next_epoch < self.num_epochs:
            yield self._begin_epoch(explicit=True).number
            self._end_epoch()
        self._source.flush()

    def __iter__(self) -> Iterator[Any]:
        """One pass over the open epoch; opens the next one where none is open."""
        return (batch for _, batch in self._begin_pass())

    def ticketed(self) -> Iterator[tuple[Ticket, Any]]:
        """One pass like `iter(loader)`, with a ticket for `update(losses, batch=ticket)` beside every batch.

        For loops that take batches before the ones before are updated.
        """
        return self._begin_pass()

    def update(self, losses: Losses, scores: torch.Tensor | None = None, batch: Ticket | None = None) -> torch.Tensor:
        """The weighted mean of a batch's losses, to be differentiated; their values go to the server by themselves.

        Σ wᵢ·lᵢ / B: over an epoch its sum is in expectation that of the unpruned losses (paper Eq. 6–8). Returns
        within microseconds: nothing is sent here, and a GPU isn't waited for.

        Args:
            losses: float tensor (B,) on any device (`reduction="none"`), or a dict of them, which are summed.
            scores: float tensor (B,) to push instead of the losses.
            batch: which batch; by default the one returned last.

        Returns:
            A scalar with its graph, float32 or float64.

        Raises:
            LossError: wrong shape or dtype, or it isn't clear which batch is meant.
            ServerError: the server has told the pusher to stop: another job has taken the run over, or it is gone.
        """
        opened = self._trained()
        ticket = opened.due(batch)
        rows = len(ticket.weight)
        checked = checked_losses(losses, rows)
        pushed = checked if scores is None else checked_losses(scores, rows, "scores")
        value = weighted_mean(checked, ticket.weight)
        self._source.push(ticket, *host_copy(pushed))
        self._settle(opened, ticket)
        return value

    def push(self, scores: torch.Tensor, batch: Ticket | None = None) -> None:
        """Pushes scores (B,) of a batch whose losses the caller reduces (with `weights()`)."""
        opened = self._trained()
        ticket = opened.due(batch)
        self._source.push(ticket, *host_copy(checked_losses(scores, len(ticket.weight), "scores")))
        self._settle(opened, ticket)

    def skip(self, batch: Ticket | None = None) -> None:
        """Says that a batch is deliberately not trained: its samples keep their scores.

        Args:
            batch: which batch; by default every batch that awaits its update.
        """
        opened = self._trained()
        for ticket in [opened.due(batch)] if batch is not None else list(opened.awaiting.values()):
            self._settle(opened, ticket)

    def weights(self) -> torch.Tensor:
        """Weights float32 (B,) of the batch returned last; 0 in rows that only fill it up."""
        if self._weights is None:
            raise LossError("weights() before the first batch")
        return self._weights

    def __len__(self) -> int:
        """Batches of the open epoch; before it is open, what a loaded state leaves of it, or an unpruned epoch's."""
        if self._open is not None:
            return self._open.opening.num_steps
        return self._opening(*self._source.ahead).num_steps

    def progress(self) -> float:
        """epoch + consumed / positions of this epoch; strictly increasing, `num_epochs` after the last batch."""
        if self._open is not None:
            return self._open.progress
        return self._source.progress

    def metrics(self) -> dict[str, float]:
        """Counts and lags, for a log; communicates with nobody."""
        found: dict[str, float] = dict(self._source.metrics())
        if (opened := self._open) is not None:
            found |= {
                "epoch": opened.number,
                "positions": opened.positions,
                "kept": opened.plan.kept,
                "pruned": opened.plan.pruned,
                **{f"rows_{name}": value for name, value in opened.counts._asdict().items()},
            }
        return found

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, as plain values; the same on every rank. Call it after a batch's update."""
        return self._source.state(self._open)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where a state says; before the first epoch is opened.

        Raises:
            StateError: no state of this loader, or one of another run or data set; names the field.
            ConfigError: an epoch has been opened already.
        """
        if self._open is not None:
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
        self._end_epoch(wait=False)
        self._closed = True
        self._workers.close()
        self._source.close(timeout_s)

    def __enter__(self) -> InfoBatchLoader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(None if kind is None else 5.0)

    def _opened(self) -> OpenEpoch:
        if self._open is None:
            raise LossError("no epoch is open: iterate over loader.epochs() and, inside, over the loader")
        return self._open

    def _trained(self) -> OpenEpoch:
        if not self._source.trains:
            raise ConfigError("a validation loader (policy=None) takes no scores: it has no run to push them to")
        return self._opened()

    def _opening(self, num_positions: int, start: int) -> Opening:
        return Opening(
            num_positions=num_positions,
            start=start,
            batch_size=self.batch_size,
            world_size=self._ranks.world_size,
            drop_remainder=self._drop,
        )

    def _begin_epoch(self, *, explicit: bool) -> OpenEpoch:
        if self._closed:
            raise ConfigError("this loader is closed: make a new one")
        number, plan, path, start = self._source.open()
        self._open = OpenEpoch(number, plan, path, self._opening(plan.kept, start), explicit)
        return self._open

    def _end_epoch(self, *, wait: bool = True) -> None:
        if self._open is None:
            return
        opened, self._open = self._open, None
        self._source.advance(opened)
        if not opened.ended:
            opened.ended = True
            self._source.end(opened, wait=wait)
        if opened.exhausted and opened.awaiting and self._source.trains:
            warnings.warn(
                f"{len(opened.awaiting)} of {opened.given} batches of epoch {opened.number} were never updated: "
                "their samples have no new scores; call loader.update(losses) for every batch, or loader.skip()",
                stacklevel=3,
            )

    def _begin_pass(self) -> Iterator[tuple[Ticket, Any]]:
        opened = self._open
        if opened is not None and opened.updated and opened.explicit:
            raise ConfigError(
                f"a second pass over epoch {opened.number} after updates: a sample is trained once in an epoch; take "
                "the next one from loader.epochs()"
            )
        if opened is not None and not opened.explicit and (opened.updated or opened.exhausted):
            self._end_epoch()
            opened = None
        opened = opened or self._begin_epoch(explicit=False)
        opened.restart()
        self._pass += 1
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
        return self._batches(opened, self._pass, batches)

    def _batches(self, opened: OpenEpoch, number: int, batches: Iterator[TiedBatch]) -> Iterator[tuple[Ticket, Any]]:
        while True:
            if self._pass != number or self._open is not opened:
                raise ConfigError("this iterator is of a pass that is over: a newer one has begun")
            if (batch := next(batches, None)) is None:
                break
            payload, index, weight, keyed, counts = batch
            ticket = opened.give(index, weight, counts)
            self._weights = torch.from_numpy(weight)
            tie = {"__index__": torch.from_numpy(index), "__weight__": self._weights}
            yield ticket, with_tie(payload, keyed, tie)
        opened.exhausted = True
        self._end_if_done(opened)

    def _settle(self, opened: OpenEpoch, ticket: Ticket) -> None:
        opened.settle(ticket)
        if opened.exhausted:
            self._end_if_done(opened)

    def _end_if_done(self, opened: OpenEpoch) -> None:
        if not opened.awaiting and not opened.ended:
            opened.ended = True
            self._source.end(opened)


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
