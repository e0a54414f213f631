"""The rows of a dataset in a plain DataLoader: one pass in a worker, or in the loop's process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from torch.utils.data import get_worker_info

from infobatch_client.epochs.holder import DATASET
from infobatch_client.plain.row_stream import RefusedRows, RowStream
from infobatch_client.plain.state import PlainState
from infobatch_client.plans.validation import validation_plan
from infobatch_client.tie.mixing import mixed_error, mixer_around
from infobatch_client.workers.orphans import end_with_parent
from infobatch_client.workers.pass_control import Pass, PassControl
from infobatch_client.workers.unsent import report_unsent
from infobatch_stream.plan.epoch_plan import EpochPlan

__all__ = ["PlainRows"]


_read_in_this_worker: dict[int, PassControl] = {}  # by process: that of the run that its DataLoader reads from


class PlainRows(PlainState):
    """Iterates over a pass, in any process."""

    def __iter__(self) -> Iterator[Any]:
        """The rows of one pass, with their ties; in a DataLoader worker, this worker's.

        Outside of workers it opens the next epoch by itself if `set_epoch` wasn't called.

        Raises:
            ConfigError: closed, no epoch is open, or a second pass over one that was updated; in a worker at the
                first row.
            PipelineError: RandomMix, RoundRobin or ChainDataset mixes this run's samples with others, or a worker
                reads from two runs.
        """
        mixer = None if self.options is None else mixer_around()
        if (info := get_worker_info()) is None:
            self._check_not_closed()
            if mixer is not None:
                raise mixed_error(mixer)
            if self.options is None:
                return self._rows(self._validation_pass(), 0, 1)
            rows = self._rows(self._live().begin_pass(), 0, 1)
            self._live().begin_rows(rows)
            return rows
        end_with_parent()
        report_unsent()
        try:
            self._check_not_closed()
            self._check_alone(mixer)
            pass_ = self._validation_pass() if self.options is None else self._workers_pass()
            return self._rows(pass_, info.id, info.num_workers)
        except Exception as error:
            return RefusedRows(error)

    def __len__(self) -> int:
        """Rows that a DataLoader gets of the open epoch, those that fill included; before it, of an unpruned one.

        With it `len(DataLoader(dataset, batch_size=B))` is the epoch's number of batches, for any number of workers.
        Without a `batch_size` it is the number of samples, or on several ranks of this rank's.
        """
        if self.batch_size is None:
            rank, world_size = self._place
            return len(range(rank, self._num_samples, world_size))
        if self.options is None:
            per_step = self.batch_size * self._place[1]
            return -(-self._num_samples // per_step) * self.batch_size
        return self._live().loop.num_batches * self.batch_size

    def _rows(self, pass_: Pass, worker: int, workers: int) -> RowStream:
        return RowStream(
            self.sample_source(),
            self._control,
            pass_,
            plan_of=self._validation_plan if self.options is None and self.shuffled else None,
            worker=worker,
            workers=workers,
            trains=self.options is not None,
        )

    def _validation_plan(self, number: int) -> EpochPlan:
        return validation_plan(self.indexed.manifest, seed=self.seed, number=number, subset=self._subset)

    def _check_alone(self, mixer: str | None) -> None:
        """Refuses, in a worker, to be one of several data sets: mixed by name, or the second run that it reads from."""
        if mixer is not None:
            raise mixed_error(mixer)
        if self.options is None:
            return
        first = _read_in_this_worker.setdefault(os.getpid(), self._control)
        if first is not self._control:
            raise mixed_error("a DataLoader of two runs")

    def _workers_pass(self) -> Pass:
        """The pass over the epoch that the loop's process has opened, in a worker."""
        first = self._read_by != os.getpid()
        self._read_by = os.getpid()
        if not self._control.written:
            raise DATASET.nothing_to_read()
        pass_ = self._control.read()
        if self._control.updated_at_start if first else self._control.updated:
            raise DATASET.second_pass(pass_.epoch)
        return pass_
