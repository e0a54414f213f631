"""The order of an open epoch's batches in a plain loop: an update must be of the batch that comes next."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.tie.rows import failed_samples
from infobatch_stream.errors import LossError, StateError
from infobatch_stream.plan.order import PlanOrder

__all__ = ["BatchOrder"]

_FIRST_STEPS = 64  # as many as workers may have begun when single rows come from several of them


class BatchOrder:
    """This rank's batches of one epoch, as its plan has them.

    Args:
        epoch: the open one.
        offsets: int64 (S+1,), the manifest's.
        rank: of this process.
    """

    def __init__(self, epoch: OpenEpoch, offsets: npt.NDArray[np.int64], rank: int) -> None:
        self.epoch = epoch
        self._order = PlanOrder(epoch.plan, offsets)
        self._rank = rank
        self._newest: npt.NDArray[np.int64] | None = None
        self._newest_index: torch.Tensor | None = None
        self._padding: tuple[int, int] | None = None  # the first of the latest steps without a real row, and updates

    @property
    def next_rows(self) -> int:
        """Positions of the batch that comes next; fewer than a batch's rows, even none, in the last step."""
        first, end = self.epoch.opening.rows(self.epoch.num_consumed, self._rank)
        return end - first

    def is_newest(self, samples: npt.NDArray[np.int64], index: torch.Tensor) -> bool:
        """Whether this is the batch updated last: an epoch has each sample in one batch only.

        A batch without a real row is known by its tensor; where that is a copy, the next real row decides
        (`settle_padding`).

        Args:
            samples: int64 (B,), −1 in rows that fill.
            index: the tensor in which they came.
        """
        if self._newest is None or not np.array_equal(samples, self._newest):
            return False
        if (samples >= 0).any() or self.epoch.finished:
            return True
        newest = self._newest_index
        return newest is not None and (index.device, index.data_ptr()) == (newest.device, newest.data_ptr())

    def note_newest(self, samples: npt.NDArray[np.int64], index: torch.Tensor) -> None:
        """A batch is updated; its tensor is kept, so that no other one gets its memory."""
        self._newest, self._newest_index = samples, index

    def note_update(self, samples: npt.NDArray[np.int64], *, step: int) -> None:
        """A batch is updated, for the first time or again; `step` is its number, if it is the first time."""
        if (samples >= 0).any():
            self._padding = None
        else:
            first, updates = self._padding or (step, 0)
            self._padding = first, updates + 1

    def settle_padding(self, samples: npt.NDArray[np.int64]) -> int:
        """The number of the batch that comes next, from its real rows.

        Updates of batches without a real row may have been of one batch, or of several: they look alike.
        """
        real, following = samples[samples >= 0], self.epoch.num_consumed
        if self._padding is None or not len(real):
            return following
        first, updates = self._padding
        for step in range(first + 1, min(first + updates, self.epoch.opening.num_steps - 1) + 1):
            if np.isin(real, self._samples(step)).all():
                return step
        return following

    def check_not_over(self) -> None:
        """Raises LossError if every batch has been updated or skipped."""
        epoch = self.epoch
        if epoch.finished:
            raise LossError(
                f"all {epoch.num_consumed} batches of epoch {epoch.number} are updated or skipped already: call "
                "update(), push() or skip() once for every batch"
            )

    def check_next(self, samples: npt.NDArray[np.int64], *, loaded_state: bool) -> None:
        """Raises unless samples are of the batch that comes next: a stage may drop some of them, and adds none.

        Args:
            samples: int64 (B,), −1 in rows that fill.
            loaded_state: a worker has loaded a state of the DataLoader.

        Raises:
            LossError: they are another batch's, another rank's or another epoch's.
            StateError: the DataLoader has read and dropped batches since its state was loaded.
        """
        epoch, real = self.epoch, samples[samples >= 0]
        if np.isin(real, self._samples(epoch.num_consumed)).all():
            return
        if not epoch.num_consumed:
            if loaded_state:  # torchdata reads and drops batches if a loader's snapshot is older than its state
                raise StateError(
                    "the DataLoader has dropped its first batches since its state was loaded: save it with "
                    "snapshot_every_n_steps=1, or load the dataset's state alone into a new DataLoader"
                )
            self._check_rank(real)
        raise LossError(
            f"these are not the samples of batch {epoch.num_consumed} of epoch {epoch.number}, which comes next: "
            "update every batch, in the order in which the DataLoader returned it, with the index that came with it; "
            "dataset.skip() is for one that isn't trained. An iterator of an earlier epoch returns none of them"
        )

    def dropped_of_next(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """The samples (n,) of the batch that comes next that a stage has dropped; None if there are none.

        Args:
            samples: int64 (B,), the batch as it came: negative in rows that fill, where those that failed are named.
        """
        came = samples[samples >= 0]
        if len(came) == self.next_rows:
            return None
        missing = np.setdiff1d(self._samples(self.epoch.num_consumed), np.append(came, failed_samples(samples)))
        return missing if len(missing) else None

    def _samples(self, step: int) -> npt.NDArray[np.int64]:
        return self._order.samples(*self.epoch.opening.rows(step, self._rank))

    def _check_rank(self, real: npt.NDArray[np.int64]) -> None:
        """Accelerate's `prepare` reads on the first rank alone, and deals its batches out to all."""
        opening = self.epoch.opening
        if opening.world_size == 1:
            return
        first = [self._samples(step) for step in range(min(_FIRST_STEPS, opening.num_steps))]
        if not np.isin(real, np.concatenate(first)).all():
            raise LossError(
                f"rank {self._rank} has received samples of epoch {self.epoch.number} that another rank reads: "
                "something deals batches out a second time, as Accelerate's prepare() does; leave the DataLoader out "
                "of it: the dataset knows its rank"
            )
