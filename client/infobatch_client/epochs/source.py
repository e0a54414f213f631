"""Where a loop's epochs come from: every sample of a validation set, or a run on a score server, which trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.tie.columns import DeclaredColumn
from infobatch_client.tie.ticket import Ticket
from infobatch_client.tie.weighting import HostScores
from infobatch_stream.plan.epoch_plan import EpochPlan

__all__ = ["EpochSource", "NextEpoch", "TrainingSource"]


class NextEpoch(NamedTuple):
    """An epoch as its source opens it.

    Args:
        number: of the epoch.
        plan: the samples that are trained or validated.
        plan_path: the plan's file; "" for all samples in index order.
        start: the position at which it begins.
        generation: of the plan; 0 without one.
        base_seed: of the random numbers of stages, if it isn't this process's own: replicas have equal batches.
        pass_number: in validation, of the pass: it chooses order and random numbers. None in training.
    """

    number: int
    plan: EpochPlan
    plan_path: str
    start: int
    generation: int = 0
    base_seed: int | None = None
    pass_number: int | None = None


class EpochSource(ABC):
    """Opens one epoch after the other.

    Attributes:
        num_epochs: the epochs that it has.
        num_samples: the positions of an unpruned epoch.
        next_epoch: the epoch that `open` opens.
    """

    num_epochs: int
    num_samples: int
    next_epoch: int = 0

    @property
    def ahead(self) -> tuple[int, int]:
        """(positions, those consumed) of the next epoch, as far as is known before it is open."""
        return self.num_samples, 0

    @property
    def progress(self) -> float:
        """Between epochs: the number of those that are over."""
        return float(min(self.next_epoch, self.num_epochs))

    def start_over(self) -> None:
        """`epochs()` was called: a source that can repeat its epochs begins with the first one again."""
        return

    def passes_on(self, epoch: OpenEpoch) -> bool:
        """Whether another pass over `epoch` is one over the epoch after it, so that `epoch` ends."""
        return not epoch.explicit and (epoch.updated or epoch.exhausted)

    @abstractmethod
    def begin_at(self, epoch: int) -> None:
        """`set_epoch(epoch)` was called, with an epoch that may be opened; `open` opens it."""

    @abstractmethod
    def open(self, max_steps: int | None = None) -> NextEpoch:
        """Opens the next epoch.

        Args:
            max_steps: the most batches that a pass over it returns.
        """

    def advance(self, epoch: OpenEpoch) -> None:
        """The epoch is over: the one after it is next."""
        self.next_epoch = epoch.number + 1

    @abstractmethod
    def close(self, timeout_s: float | None) -> None:
        """Releases its resources; waits at most `timeout_s` for the pending scores."""


class TrainingSource(EpochSource):
    """Epochs of a run: takes their scores and ends, and resumes them from a state.

    Attributes:
        columns: the policy's columns, which every update pushes beside the scores.
    """

    columns: Sequence[DeclaredColumn]

    @property
    @abstractmethod
    def has_begun(self) -> bool:
        """Whether an epoch has been opened."""

    @property
    @abstractmethod
    def may_begin_anywhere(self) -> bool:
        """Whether the first epoch may be another than `next_epoch`."""

    @abstractmethod
    def push(self, ticket: Ticket, scores: HostScores) -> None:
        """Takes the scores of a batch, or of some of its rows."""

    @abstractmethod
    def report_dropped(self, epoch: OpenEpoch, samples: npt.NDArray[np.int64]) -> None:
        """Takes samples (n,) that the pipeline dropped, to be left out of later plans."""

    @abstractmethod
    def end(self, epoch: OpenEpoch, *, wait: bool = True) -> None:
        """All scores of an epoch have been pushed; `wait` until they have arrived."""

    @abstractmethod
    def state(self, epoch: OpenEpoch | None) -> dict[str, Any]:
        """The resume state, inside `epoch` or, for None, between epochs."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """Takes a resume state, before the first epoch."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Counts and lags of the scores."""

    @abstractmethod
    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits for the pending scores; whether all of them have arrived."""
