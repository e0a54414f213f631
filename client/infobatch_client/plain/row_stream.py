"""The rows of one pass for a plain DataLoader: one worker's batches, row after row, each row with its tie.

Worker w of n gives the rows of steps w, w + n, …, exactly batch_size for each, so that DataLoader's own batching and
its round over the workers give every batch whole and in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from infobatch_client.tie.rows import tied_row
from infobatch_client.workers.pass_batches import PassBatches
from infobatch_client.workers.pass_control import Pass, PassControl
from infobatch_client.workers.sample_source import SampleSource
from infobatch_stream.errors import ConfigError, StateError
from infobatch_stream.plan.epoch_plan import EpochPlan

__all__ = ["RefusedRows", "RowStream"]

_FORMAT = 1
_ADVICE = (
    "load the two states that were saved together, the dataset's first: dataset.load_state_dict(…), then "
    "dataset.set_epoch(…); or load the dataset's alone into a new loader, which is enough"
)


class RowStream(Iterator[Any]):
    """One worker's rows of one pass. For one thread.

    torchdata's StatefulDataLoader calls `state_dict` and `load_state_dict`, in the process that reads. Where training
    goes on is the dataset's to say, from what was updated; a loaded state only says whose turn it is among the
    workers, and is refused where it is not of the place at which the dataset stands. Without a run (validation) it is
    itself the place.

    Args:
        source: samples, and what they pass through.
        control: carries loaded states between workers.
        pass_: which pass.
        plan: what is read, where the pass has no file.
        worker, workers: this one's number, and how many there are.
        trains: the pass is an epoch of a run.
    """

    def __init__(
        self,
        source: SampleSource,
        control: PassControl,
        pass_: Pass,
        *,
        plan: EpochPlan | None,
        worker: int,
        workers: int,
        trains: bool,
    ) -> None:
        self.ended = False
        self.over = False
        self._control = control
        self._pass = pass_
        self._batches = PassBatches(source, pass_, plan)
        self._worker, self._workers = worker, workers
        self._trains = trains
        self._rows_given = 0
        self._turns_before = 0  # batches that this worker gave in the passes that this one goes on from
        self._loaded: dict[str, Any] | None = None
        self._rows = self._read()

    def __next__(self) -> Any:
        if self.over:
            raise ConfigError("this iterator is of a pass that is over: a newer one has begun")
        row = next(self._rows)
        self._rows_given += 1
        return row

    def state_dict(self) -> dict[str, Any]:
        """How far this worker is, as plain values."""
        return {
            "format": _FORMAT,
            "epoch": self._pass.epoch,
            "plan_id": self._plan_id,
            "start": self._pass.start,
            "batch_size": self._pass.batch_size,
            "world_size": self._pass.world_size,
            "steps": self._batches.opening.num_steps,
            "rows": self._rows_given,
            "turns": self._turns_before + self._rows_given // self._pass.batch_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the state of the worker of this number, before the first row. It is checked at the first row.

        Raises:
            StateError: no state of this kind, or of a loader that took rows one by one (batch_size=None).
        """
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT or state.keys() != self.state_dict().keys():
            raise StateError(f"this is no state of an InfoBatchStreamDataset's worker of format {_FORMAT}: {state!r}")
        if state["rows"] % state["batch_size"]:
            raise StateError(
                f"the loader's state is {state['rows']} rows into batches of {state['batch_size']}: a loader that "
                f"takes rows one by one (batch_size=None) goes on by the dataset's state alone; {_ADVICE}"
            )
        self._loaded = dict(state)
        if self._trains:
            self._turns_before = state["turns"]
            self._control.note_loaded(self._worker, state["rows"] // state["batch_size"], state["turns"])
        else:
            self._rows_given = state["rows"]

    @property
    def _plan_id(self) -> str:
        return self._batches.plan.plan_id if self._batches.plan is not None else ""

    def _read(self) -> Iterator[Any]:
        for batch in self._batches.batches(self._steps()):
            for payload, index, weight in zip(batch.payloads, batch.indices.tolist(), list(batch.weights), strict=True):
                yield tied_row(payload, index, weight)
        self.ended = True

    def _steps(self) -> Sequence[int]:
        """This worker's. Not before the first row: a loader has all of its workers load before it asks for one."""
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
        batches, turns = self._control.loaded
        self._check_place(saved, batches)
        return range((self._worker - turns) % self._workers, steps, self._workers)

    def _check_place(self, saved: Mapping[str, Any], batches: int) -> None:
        """Raises StateError where the dataset doesn't stand where the loader's state was saved."""
        pass_ = self._pass
        if saved["plan_id"] == self._plan_id:
            end = saved["start"] + batches * saved["batch_size"] * saved["world_size"]
            if not saved["start"] <= pass_.start <= max(end, saved["start"]):
                raise StateError(
                    f"the loader's state was saved at position {end} of epoch {pass_.epoch}, the dataset stands at "
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
    """Raises at the first row what went wrong before it: a persistent worker dies of an error in `iter(dataset)`."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __next__(self) -> Any:
        raise self._error
