"""Where a loader's epochs come from: a run on a score server, or every sample of a validation set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.tie.ticket import Ticket
from infobatch_client.tie.weighting import HostScores
from infobatch_stream.plan.epoch_plan import EpochPlan

__all__ = ["EpochSource"]


class EpochSource(ABC):
    """Opens epochs, takes their scores and ends them."""

    num_epochs: int
    num_samples: int
    next_epoch: int = 0
    trains: bool = True

    @property
    def ahead(self) -> tuple[int, int]:
        """(positions, those consumed) of the epoch that comes next, as far as is known before it is open."""
        return self.num_samples, 0

    def start_over(self) -> None:
        """`epochs()` was called: where they may be had again, the first is next."""
        return

    @property
    def may_begin_anywhere(self) -> bool:
        """Whether the first epoch may be another than `next_epoch`."""
        return False

    @abstractmethod
    def begin_at(self, epoch: int) -> None:
        """`set_epoch(epoch)` was called, with an epoch that may be opened; `open` opens it."""

    @property
    def progress(self) -> float:
        """Between epochs: those that are over."""
        return float(min(self.next_epoch, self.num_epochs))

    @abstractmethod
    def open(self, max_steps: int | None = None) -> tuple[int, EpochPlan, str, int]:
        """(epoch, its plan, the plan's file or "" for index order, the position to begin at).

        Args:
            max_steps: how many batches the pass will give at most.
        """

    def advance(self, opened: OpenEpoch) -> None:
        """After an epoch is over: the next one is next."""
        self.next_epoch = opened.number + 1

    @abstractmethod
    def push(self, ticket: Ticket, pushed: HostScores) -> None:
        """Takes the scores of a batch, or of some of its rows."""

    @abstractmethod
    def end(self, opened: OpenEpoch, *, wait: bool = True) -> None:
        """All scores of an epoch have been given; `wait` until they have arrived."""

    @abstractmethod
    def state(self, opened: OpenEpoch | None) -> dict[str, Any]:
        """The resume state."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """Takes a resume state."""

    def metrics(self) -> dict[str, float]:
        """Counts of the pusher, where there is one."""
        return {}

    @abstractmethod
    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits for scores that are on their way; whether all of them have arrived."""

    @abstractmethod
    def close(self, timeout_s: float | None) -> None:
        """Lets go of what it holds."""
