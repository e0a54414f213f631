"""The score table: one score per sample, in contiguous Arrow-compatible buffers.

Resident per sample: score float32 (NaN: never scored), stamp uint16 (epoch + 1 of the last update; 0: none) and
visits uint16 (epochs in which it was scored, saturating), and the columns that the policy declares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infobatch_stream.errors import ConfigError
from infobatch_stream.scores.blocks import blocks, count_scored
from infobatch_stream.scores.columns import ColumnSpec, empty_arrays, fold
from infobatch_stream.scores.dropped import DroppedSamples

__all__ = ["MAX_EPOCHS", "ScoreTable", "UpdateCounts"]

MAX_EPOCHS = 65_534
"""A stamp is epoch + 1 in 16 bits, and one value stays free."""

_MAX_VISITS = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class UpdateCounts:
    """The records of one update, by outcome."""

    accepted: int = 0
    non_finite: int = 0
    stale: int = 0


@dataclass
class ScoreTable:
    """Scores, stamps and visits of N samples.

    Not safe for concurrent writers: its owner applies updates one after the other.

    Args:
        num_samples: N ≥ 1.
        columns: the policy's, each name once.

    Attributes:
        score: float32 (N,); NaN where never scored.
        stamp: uint16 (N,): epoch + 1 of the last update; 0 where there was none.
        visits: uint16 (N,): epochs in which the sample was scored.
        extra: the columns' arrays by name, (N,) each.
        dropped: samples that the pipeline dropped; a score that is stored takes its sample out.
    """

    num_samples: int
    columns: Sequence[ColumnSpec] = ()
    score: npt.NDArray[np.float32] = field(init=False, repr=False)
    stamp: npt.NDArray[np.uint16] = field(init=False, repr=False)
    visits: npt.NDArray[np.uint16] = field(init=False, repr=False)
    extra: dict[str, npt.NDArray[Any]] = field(init=False, repr=False)
    dropped: DroppedSamples = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ConfigError(f"num_samples={self.num_samples}: a score table needs at least one sample")
        self.score = np.full(self.num_samples, np.nan, np.float32)
        self.stamp = np.zeros(self.num_samples, np.uint16)
        self.visits = np.zeros(self.num_samples, np.uint16)
        self.dropped = DroppedSamples(self.num_samples)
        self.extra = {}
        for spec in self.columns:
            self.extra.update(empty_arrays(spec, self.num_samples))

    def update(
        self,
        epoch: int,
        indices: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float32],
        columns: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> UpdateCounts:
        """Stores the scores of samples trained in an epoch (Eq. 5): all others keep theirs.

        A later epoch wins over an earlier one; within an epoch the later record does, also within one call.
        NaN and ±Inf are counted and not stored.

        Args:
            epoch: in [0, MAX_EPOCHS).
            indices: int64 (n,), each in [0, N).
            scores: float32 (n,).
            columns: by name, (n,) each, for every declared column whose source is "pushed".

        Raises:
            ConfigError: shapes differ, an index is out of range, a column is missing or unknown. The table is
                unchanged then.
        """
        columns = columns or {}
        self._check(epoch, indices, scores, columns)
        stamp = np.uint16(epoch + 1)
        before = self.stamp[indices]
        finite, fresh = np.isfinite(scores), before <= stamp
        chosen = finite & fresh
        counts = UpdateCounts(
            accepted=int(np.count_nonzero(chosen)),
            non_finite=len(scores) - int(np.count_nonzero(finite)),
            stale=int(np.count_nonzero(finite & ~fresh)),
        )
        if counts.accepted != len(scores):
            indices, scores, before = indices[chosen], scores[chosen], before[chosen]
            columns = {name: values[chosen] for name, values in columns.items()}
        for spec in self.columns:
            values = scores if spec.source == "score" else columns[spec.name]
            fold(spec, self.extra, indices, values, self.score)
        is_rising = before < stamp
        rising = indices if is_rising.all() else indices[is_rising]
        seen = self.visits[rising]
        self.visits[rising] = seen + (seen < _MAX_VISITS)
        self.score[indices] = scores
        self.stamp[indices] = stamp
        self.dropped.discard(indices)
        return counts

    def import_scores(
        self, first: int, scores: npt.NDArray[np.float32], stamps: npt.NDArray[np.uint16] | None = None
    ) -> UpdateCounts:
        """Puts scores (n,) of samples first … first+n−1 into the table; NaN leaves a sample unscored. Folds nothing.

        Args:
            first: the first sample.
            scores: float32 (n,).
            stamps: uint16 (n,): epoch + 1 of each score; None: 0, that is, from before epoch 0.

        Raises:
            ConfigError: the range is outside [0, N), the lengths differ, or a stamp is too high. The table is unchanged
                then.
        """
        stop = first + len(scores)
        if not 0 <= first <= stop <= self.num_samples:
            raise ConfigError(f"samples [{first}, {stop}) are outside [0, {self.num_samples})")
        if stamps is not None and len(stamps) != len(scores):
            raise ConfigError(f"{len(stamps)} stamps for {len(scores)} scores")
        if stamps is not None and (highest := int(stamps.max(initial=0))) > MAX_EPOCHS:
            raise ConfigError(f"stamp {highest} is over {MAX_EPOCHS}; a stamp is epoch + 1")
        finite = np.isfinite(scores)
        self.score[first:stop] = np.where(finite, scores, np.float32(np.nan))
        # A stamp without a score would refuse the scores of earlier epochs.
        self.stamp[first:stop] = 0 if stamps is None else np.where(finite, stamps, np.uint16(0))
        return UpdateCounts(accepted=int(np.count_nonzero(finite)), non_finite=int(np.count_nonzero(np.isinf(scores))))

    def lower_stamps(self, epoch: int, part: slice = slice(None)) -> None:
        """Rewinds to the start of an epoch: stamps of it and of later ones become those of the epoch before.

        Scores and columns stay: they are the best that is known. Epochs that are trained again may store theirs.

        Args:
            epoch: the epoch.
            part: the samples whose stamps are lowered; all by default.
        """
        stamps = self.stamp[part]
        np.minimum(stamps, np.uint16(min(epoch, MAX_EPOCHS)), out=stamps)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays by name, (N,) each: score, stamp, visits and the columns'; the table's own, not copies."""
        return {"score": self.score, "stamp": self.stamp, "visits": self.visits, **self.extra}

    def copy(self, first: int, stop: int) -> ScoreTable:
        """A table of the samples [first, stop) alone."""
        part = ScoreTable(stop - first, self.columns)
        for name, values in part.arrays().items():
            values[:] = self.arrays()[name][first:stop]
        part.dropped.add(np.flatnonzero(self.dropped[first:stop]))
        return part

    @property
    def num_scored(self) -> int:
        """Samples that have a score."""
        return count_scored(self.score)

    def digest(self) -> bytes:
        """BLAKE2b-256 over scores and stamps by blocks: equal for equal contents, however they came to be there."""
        digest = hashlib.blake2b(digest_size=32)
        for part in blocks(self.num_samples):
            digest.update(self.score[part].astype("<f4", copy=False).data)
            digest.update(self.stamp[part].astype("<u2", copy=False).data)
        return digest.digest()

    def to_arrow(self) -> pa.Table:
        """The table as Arrow, without a copy: columns score (NaN: never scored), stamp, visits, and the policy's.

        The arrays share the table's memory: later updates show in them. Copy what must not change.
        """
        return pa.table(
            {
                name: pa.Array.from_buffers(
                    pa.from_numpy_dtype(values.dtype), self.num_samples, [None, pa.py_buffer(values)]
                )
                for name, values in self.arrays().items()
            }
        )

    def _check(
        self,
        epoch: int,
        indices: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float32],
        columns: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        if not 0 <= epoch < MAX_EPOCHS:
            raise ConfigError(f"epoch={epoch} is outside [0, {MAX_EPOCHS})")
        if indices.ndim != 1 or indices.shape != scores.shape:
            raise ConfigError(f"indices {indices.shape} and scores {scores.shape} must be (n,) both")
        if len(indices) and not 0 <= (low := int(indices.min())) <= (high := int(indices.max())) < self.num_samples:
            wrong = low if low < 0 else high
            raise ConfigError(f"sample index {wrong} is outside [0, {self.num_samples})")
        declared = {spec.name for spec in self.columns if spec.source == "pushed"}
        if set(columns) != declared:
            raise ConfigError(f"columns {sorted(columns)} were pushed, the policy declares {sorted(declared)}")
        for name, values in columns.items():
            if values.shape != scores.shape:
                raise ConfigError(f"column {name} {values.shape} and scores {scores.shape} differ in shape")
