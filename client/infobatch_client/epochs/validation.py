"""The passes over a validation set: every sample of it, without a server, a run or scores."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from infobatch_client.epochs.holder import LOADER
from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.epochs.source import EpochSource, NextEpoch
from infobatch_client.plans.files import PlanFiles
from infobatch_client.plans.validation import validation_plan
from infobatch_client.ranks.ranks import Ranks
from infobatch_stream.manifest import Manifest

__all__ = ["ValidationEpochs"]


class ValidationEpochs(EpochSource):
    """Every sample, or every one of a subset, in each pass; any number of passes.

    Each pass has another number, and with it another order, until one is set. On several ranks the order stays the
    same: they may do different passes, and don't communicate.

    Args:
        manifest: the shards'.
        seed: of the order of shuffled samples.
        shuffle: off reads in index order.
        subset: bool (N,), the samples that exist; None: all.
        ranks: of the job.
        base_seed: of the random numbers of stages, if it isn't this process's own: replicas have equal batches.
    """

    num_epochs = 1

    def __init__(
        self,
        manifest: Manifest,
        *,
        seed: int,
        shuffle: bool,
        ranks: Ranks,
        subset: npt.NDArray[np.bool_] | None = None,
        base_seed: int | None = None,
    ) -> None:
        self._manifest, self._subset = manifest, subset
        self._seed, self._shuffle, self._base_seed = seed, shuffle, base_seed
        self._ranks = ranks
        self._files: PlanFiles | None = None
        self._number, self._is_set, self._warned = 0, False, False
        self.num_samples = manifest.num_samples if subset is None else int(np.count_nonzero(subset))

    def begin_at(self, epoch: int) -> None:
        """The number chooses the order of shuffled samples, from now on."""
        self._number, self._is_set = epoch, True

    def start_over(self) -> None:
        """There is always another pass."""
        self.next_epoch = 0

    def passes_on(self, epoch: OpenEpoch) -> bool:
        """After a pass, or the beginning of one, there is another order to begin, unless one is set."""
        return not self._is_set and epoch.num_consumed > 0

    def advance(self, epoch: OpenEpoch) -> None:
        """The next pass has another number."""
        super().advance(epoch)
        if self.passes_on(epoch):
            self._number += 1

    def open(self, max_steps: int | None = None) -> NextEpoch:
        """The samples in index order, or in the order of the pass's number."""
        one_order = self._ranks.world_size > 1 and not self._is_set
        number = 0 if one_order else self._number
        plan = validation_plan(self._manifest, seed=self._seed, number=number, subset=self._subset)
        path = ""
        if self._shuffle and one_order and self._number and not self._warned:
            self._warned = True
            LOADER.warn(
                "every pass over this validation set has the same order: on several ranks, call "
                "loader.set_epoch(number) on all of them before each pass for another one, or pass shuffle=False"
            )
        if self._shuffle:
            self._files = self._files or PlanFiles()
            path = self._files.store(plan)
            self._files.keep_newest()
        return NextEpoch(0, plan, path, 0, base_seed=self._base_seed, pass_number=self._number)

    def close(self, timeout_s: float | None) -> None:
        """Removes the plan files."""
        if self._files is not None:
            self._files.close()
