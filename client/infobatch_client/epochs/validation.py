"""The passes over a validation set: every sample, without a server, a run or scores."""

from __future__ import annotations

from infobatch_client.epochs.source import EpochSource, NextEpoch
from infobatch_client.plans.files import PlanFiles
from infobatch_client.plans.validation import validation_plan
from infobatch_stream.manifest import Manifest

__all__ = ["ValidationEpochs"]


class ValidationEpochs(EpochSource):
    """Every sample in each pass; any number of passes.

    Args:
        manifest: the shards'.
        seed: of the order of shuffled samples.
        shuffle: off reads in index order.
    """

    num_epochs = 1

    def __init__(self, manifest: Manifest, *, seed: int, shuffle: bool) -> None:
        self._manifest = manifest
        self._seed, self._shuffle = seed, shuffle
        self._files: PlanFiles | None = None
        self._number = 0
        self.num_samples = self._manifest.num_samples

    def begin_at(self, epoch: int) -> None:
        """The number chooses the order of shuffled samples."""
        self._number = epoch

    def start_over(self) -> None:
        """There is always another pass."""
        self.next_epoch = 0

    def open(self, max_steps: int | None = None) -> NextEpoch:
        """The samples in index order, or in the order of the number that was set.

        Every pass has the same order: otherwise ranks with different numbers of passes would read samples twice.
        """
        plan = validation_plan(self._manifest, seed=self._seed, number=self._number)
        if not self._shuffle:
            return NextEpoch(0, plan, "", 0)
        self._files = self._files or PlanFiles()
        path = self._files.store(plan)
        self._files.keep_newest()
        return NextEpoch(0, plan, path, 0)

    def close(self, timeout_s: float | None) -> None:
        """Removes the plan files."""
        if self._files is not None:
            self._files.close()
