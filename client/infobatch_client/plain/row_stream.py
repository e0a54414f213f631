"""The rows of one pass for a plain DataLoader: one worker's batches, row after row, each row with its tie.

Worker w of n returns the rows of steps w, w + n, …, exactly batch_size for each, so that DataLoader's own batching and
its round over the workers return every batch whole and in order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from infobatch_client.epochs.holder import DATASET
from infobatch_client.tie.collate import watch_collate
from infobatch_client.tie.loud import interrupted
from infobatch_client.tie.pass_mark import marked_row
from infobatch_client.tie.rows import tied_row, with_failed
from infobatch_client.workers.drop_watch import DropWatch
from infobatch_client.workers.pass_batches import PassBatches
from infobatch_client.workers.pass_control import Pass, PassControl
from infobatch_client.workers.sample_source import SampleSource
from infobatch_stream.errors import StateError
from infobatch_stream.plan.epoch_plan import EpochPlan

__all__ = ["RefusedRows", "RowStream"]

_FORMAT = 1
_log = logging.getLogger(__name__)
_ADVICE = (
    "load the two states that were saved together, the dataset's first: dataset.load_state_dict(…), then "
    "dataset.set_epoch(…); or load the dataset's alone into a new loader, which is enough"
)


class RowStream(Iterator[Any]):
    """One worker's rows of one pass. For one thread.

    torchdata's StatefulDataLoader calls `state_dict` and `load_state_dict`, in the process that reads. The dataset's
    own state says at which batch training resumes, from the updates; a loaded state of this stream only says which
    worker reads that batch, and is refused if it was saved at another position. Without a run (validation) it is the
    position itself.

    Args:
        source: samples, and their pipeline.
        control: carries loaded states between workers.
        pass_: the pass.
        plan_of: the plan of a pass's number, if the pass has no file; None reads by the file, or in index order.
        worker, workers: this one's number, and how many there are.
        trains: the pass is an epoch of a run.
    """

    def __init__(
        self,
        source: SampleSource,
        control: PassControl,
        pass_: Pass,
        *,
        plan_of: Callable[[int], EpochPlan] | None,
        worker: int,
        workers: int,
        trains: bool,
    ) -> None:
        self.ended = False
        self.over = False
        self._returned = False
        self._control = control
        self._pass = pass_
        self._source, self._plan_of = source, plan_of
        self._noted = control.samples_of(worker, workers)
        self._batches = self._batches_of(pass_)
        self._worker, self._workers = worker, workers
        self._trains = trains
        self._names_drops = source.names_drops
        self._num_rows = 0
        self._rounds_before = 0  # batches that this worker returned in the passes that this one resumes
        self._loaded: dict[str, Any] | None = None
        self._rows = self._read()

    def __next__(self) -> Any:
        if self.over:
            raise DATASET.closed() if self._control.closed else DATASET.pass_over()
        row = next(self._rows)
        if not self._returned:
            self._returned = True
            watch_collate()
        self._num_rows += 1
        return row

    def state_dict(self) -> dict[str, Any]:
        """The position of this worker, as plain values."""
        return {
            "format": _FORMAT,
            "epoch": self._pass.epoch,
            "plan_id": self._plan_id,
            "start": self._pass.start,
            "batch_size": self._pass.batch_size,
            "world_size": self._pass.world_size,
            "steps": self._batches.opening.num_steps,
            "rows": self._num_rows,
            "turns": self._rounds_before + self._num_rows // self._pass.batch_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the state of the worker of this number, before the first row. It is checked at the first row.

        Raises:
            StateError: no state of this kind, or of a loader that took rows one by one (batch_size=None).
        """
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT or state.keys() != self.state_dict().keys():
            raise StateError(f"{state!r} is not a state of an InfoBatchStreamDataset's worker, of format {_FORMAT}")
        if state["rows"] % state["batch_size"]:
            raise StateError(
                f"the loader's state is {state['rows']} rows into batches of {state['batch_size']}: a loader that "
                f"takes rows one by one (batch_size=None) resumes from the dataset's state alone; {_ADVICE}"
            )
        self._loaded = dict(state)
        if self._trains:
            self._rounds_before = state["turns"]
            self._control.note_loaded(self._worker, state["rows"] // state["batch_size"], state["turns"])
            return
        self._num_rows = state["rows"]
        if not self._control.written:  # by set_epoch(), which chooses the pass
            self._pass = replace(self._pass, epoch=state["epoch"])
            self._batches = self._batches_of(self._pass)
            self._control.resume_pass(state["epoch"])

    @property
    def _plan_id(self) -> str:
        return self._batches.plan.plan_id if self._batches.plan is not None else ""

    def _batches_of(self, pass_: Pass) -> PassBatches:
        plan = None if self._plan_of is None else self._plan_of(pass_.epoch)
        return PassBatches(self._source, pass_, plan, noted=self._noted)

    def _read(self) -> Iterator[Any]:
        rows = self._filled_rows() if self._pass.fills else self._unfilled_rows()
        try:
            yield from rows
        except KeyboardInterrupt as error:
            if get_worker_info() is None:
                raise
            raise interrupted() from error
        if not self._trains:
            self._warn_of_drops()
        self.ended = True

    def _unfilled_rows(self) -> Iterator[Any]:
        steps, closed = self._steps(), self._control.closed_flag()
        for step, sample, weight, payload in self._batches.rows(steps):
            if closed[0]:
                raise DATASET.closed()
            self._num_rows = (step - self._worker) // self._workers  # and this one: a dropped row counts as well
            yield tied_row(payload, sample, np.float32(weight))

    def _filled_rows(self) -> Iterator[Any]:
        for batch in self._batches.batches(self._steps()):
            if self._control.closed:
                raise DATASET.closed()
            if batch.counts.dropped and not self._trains:
                self._warn_of_drops()
            indices = with_failed(batch) if self._names_drops else batch.indices
            mark = self._pass.mark
            for payload, index, weight in zip(batch.payloads, indices.tolist(), list(batch.weights), strict=True):
                row = tied_row(payload, index, weight)
                yield marked_row(row, mark) if mark else row
                mark = 0  # default_collate asks the first row of a batch how to collate it

    def _warn_of_drops(self) -> None:
        """For a validation set: in training, the loop's process warns at an update."""
        read = int(self._control.samples[:, 1].sum())
        over = read == self._batches.opening.num_positions_of(self._pass.rank)
        watch = DropWatch(self._control, trains=False, fills=self._pass.fills)
        found = watch.find(self._pass.world_size, over=over, plan=self._batches.plan)
        if found is not None and get_worker_info() is None:
            DATASET.warn(found)
        elif found is not None:
            _log.warning(found)

    def _steps(self) -> range:
        """This worker's. Called at the first row: by then all workers of a loader have loaded their states."""
        steps = self._batches.opening.num_steps
        if (saved := self._loaded) is None:
            return range(self._worker, steps, self._workers)
        if not self._trains:
            if (saved["plan_id"], saved["batch_size"]) != (self._plan_id, self._pass.batch_size):
                raise StateError(
                    f"the loader's state is of a pass in another order or with batch_size={saved['batch_size']}; this "
                    f"one has batch_size={self._pass.batch_size}"
                )
            return range(self._worker, steps, self._workers)[saved["rows"] // saved["batch_size"] :]
        batches, rounds = self._control.loaded
        self._check_place(saved, batches)
        return range((self._worker - rounds) % self._workers, steps, self._workers)

    def _check_place(self, saved: Mapping[str, Any], batches: int) -> None:
        """Raises StateError unless the dataset is at the position at which the loader's state was saved."""
        pass_ = self._pass
        if saved["plan_id"] == self._plan_id:
            end = saved["start"] + batches * saved["batch_size"] * saved["world_size"]
            if not saved["start"] <= pass_.start <= max(end, saved["start"]):
                raise StateError(
                    f"the loader's state was saved at position {end} of epoch {pass_.epoch}, the dataset is at "
                    f"{pass_.start} (a StatefulDataLoader keeps up only with snapshot_every_n_steps=1): {_ADVICE}"
                )
            return
        finished = batches >= saved["steps"] and pass_.epoch == saved["epoch"] + 1
        begun = batches == 0 and saved["start"] == 0 and pass_.epoch == saved["epoch"]
        if pass_.start or not (finished or begun):
            raise StateError(
                f"the loader's state is of epoch {saved['epoch']}, plan {saved['plan_id']}, the dataset's open epoch "
                f"is {pass_.epoch}, plan {self._plan_id}: {_ADVICE}"
            )


class RefusedRows(Iterator[Any]):
    """Raises an earlier error at the first row: a persistent worker dies of an error in `iter(dataset)`."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __next__(self) -> Any:
        raise self._error
