"""The passes over a validation set: every sample, without a server, a run or scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.epochs.source import EpochSource
from infobatch_client.plans.files import PlanFiles
from infobatch_client.plans.validation import validation_plan
from infobatch_client.tie.ticket import Ticket
from infobatch_client.tie.weighting import HostScores
from infobatch_stream.errors import ConfigError
from infobatch_stream.manifest import Manifest
from infobatch_stream.plan.epoch_plan import EpochPlan

__all__ = ["ValidationEpochs"]


class ValidationEpochs(EpochSource):
    """Every sample, as often as one likes: no server, no run, no scores."""

    num_epochs = 1
    trains = False

    def __init__(self, manifest: Manifest, *, seed: int, shuffle: bool) -> None:
        self._manifest = manifest
        self._seed, self._shuffle = seed, shuffle
        self._files: PlanFiles | None = None
        self._number = 0
        self.num_samples = self._manifest.num_samples

    def open(self, max_steps: int | None = None) -> tuple[int, EpochPlan, str, int]:
        """The samples in index order, or in the order of the number that was set.

        Not in another one for each pass: ranks that have made more passes than others would read other samples twice.
        """
        plan = validation_plan(self._manifest, seed=self._seed, number=self._number)
        if not self._shuffle:
            return 0, plan, "", 0
        self._files = self._files or PlanFiles()
        path = self._files.store(plan)
        self._files.keep_newest()
        return 0, plan, path, 0

    def begin_at(self, epoch: int) -> None:
        """The number chooses the order, where samples are shuffled."""
        self._number = epoch

    def start_over(self) -> None:
        """There is always another pass."""
        self.next_epoch = 0

    def push(self, ticket: Ticket, pushed: HostScores) -> None:
        """Never called: nothing is trained here."""
        raise AssertionError(ticket)

    def end(self, opened: OpenEpoch, *, wait: bool = True) -> None:
        """Nothing to say to anybody."""

    def state(self, opened: OpenEpoch | None) -> dict[str, Any]:
        """Refused: a pass begins anew."""
        raise ConfigError("a validation loader (policy=None) has no state: it begins anew every time")

    def load(self, state: Mapping[str, Any]) -> None:
        """Refused: a pass begins anew."""
        self.state(None)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Nothing is on its way."""
        return True

    def close(self, timeout_s: float | None) -> None:
        """Removes the plan files."""
        if self._files is not None:
            self._files.close()
