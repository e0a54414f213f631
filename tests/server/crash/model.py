"""What a run's table must hold, in 60 lines: each sample's newest score, its stamp and visits, and what is dropped."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Model", "Push", "Scores"]


class Scores(Protocol):
    """What a push says."""

    @property
    def epoch(self) -> int: ...
    @property
    def indices(self) -> npt.NDArray[np.int64]: ...
    @property
    def scores(self) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True, eq=False)
class Push:
    """A push that a client has sent, or is about to send again."""

    client_id: bytes
    sequence: int
    epoch: int
    indices: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


@dataclass
class Model:
    """The table after the pushes that were answered. Each sample belongs to one client, so their order is known."""

    num_samples: int
    score: npt.NDArray[np.float32] = field(init=False)
    stamp: npt.NDArray[np.uint16] = field(init=False)
    visits: npt.NDArray[np.uint16] = field(init=False)
    dropped: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.score = np.full(self.num_samples, np.nan, np.float32)
        self.stamp = np.zeros(self.num_samples, np.uint16)
        self.visits = np.zeros(self.num_samples, np.uint16)
        self.dropped = np.zeros(self.num_samples, bool)

    def push(self, push: Scores) -> None:
        """Stores a push; no sample is in it twice."""
        stamp = push.epoch + 1
        for index, score in zip(push.indices.tolist(), push.scores.tolist(), strict=True):
            if math.isfinite(score) and stamp >= self.stamp[index]:
                self.visits[index] += stamp > self.stamp[index]
                self.score[index], self.stamp[index] = score, stamp
                self.dropped[index] = False

    def rewind(self, epoch: int) -> None:
        """A job attached at the start of an epoch."""
        self.stamp = np.minimum(self.stamp, np.uint16(epoch))

    def import_scores(self, first: int, scores: npt.NDArray[np.float32], stamps: npt.NDArray[np.uint16]) -> None:
        """Puts finite scores, and the epochs that they are of, in place of those of consecutive samples."""
        self.score[first : first + len(scores)] = scores
        self.stamp[first : first + len(scores)] = stamps
