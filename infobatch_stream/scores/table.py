"""The score table: one score per sample, in contiguous Arrow-compatible buffers.

Resident per sample: score float32 (NaN: never scored), stamp uint16 (epoch + 1 of the last update; 0: none) and
visits uint16 (epochs in which it was scored, saturating), and whatever columns the policy declares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infobatch_stream.errors import ConfigError
from infobatch_stream.ratios import fraction
from infobatch_stream.scores.blocks import count_scored

__all__ = ["COLUMN_DTYPES", "MAX_EPOCHS", "ColumnSpec", "ScoreTable", "UpdateCounts"]

MAX_EPOCHS = 65_534
"""A stamp is epoch + 1 in 16 bits, and one value stays free."""

COLUMN_DTYPES = ("float32", "float64", "int32", "int64", "uint8", "uint16")


@dataclass(frozen=True, kw_only=True)
class ColumnSpec:
    """A column that a policy keeps beside the score.

    Args:
        name: an identifier; not one of the table's own columns.
        dtype: one of COLUMN_DTYPES.
        fold: "last" (the newest value; 0 before the first) or "ema" (floats only): new = w·value + (1−w)·old, the
            first as it is, NaN before it. An average passes over NaN and ±Inf.
        ema_weight: w in (0, 1] as a decimal string; needed by "ema".
    """

    name: str
    dtype: str = "float32"
    fold: str = "last"
    ema_weight: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name in ("score", "stamp", "visits"):
            raise ConfigError(f"column name {self.name!r} is not a free identifier")
        if self.dtype not in COLUMN_DTYPES:
            raise ConfigError(f"column {self.name}: dtype={self.dtype!r} is none of {', '.join(COLUMN_DTYPES)}")
        if self.fold not in ("last", "ema"):
            raise ConfigError(f"column {self.name}: fold={self.fold!r} is neither 'last' nor 'ema'")
        if self.fold == "ema":
            if not self.dtype.startswith("float"):
                raise ConfigError(f"column {self.name}: fold='ema' needs a float dtype, not {self.dtype}")
            if not 0 < fraction(self.ema_weight, f"column {self.name}: ema_weight") <= 1:
                raise ConfigError(f"column {self.name}: ema_weight={self.ema_weight} is outside (0, 1]")


@dataclass(frozen=True)
class UpdateCounts:
    """What became of the records of one update."""

    accepted: int = 0
    non_finite: int = 0
    stale: int = 0


@dataclass
class ScoreTable:
    """Scores, stamps and visits of N samples.

    Not safe for concurrent writers: whoever owns it applies updates one after the other.

    Args:
        num_samples: N ≥ 1.
        columns: what the policy declares.
    """

    num_samples: int
    columns: Sequence[ColumnSpec] = ()
    score: npt.NDArray[np.float32] = field(init=False, repr=False)
    stamp: npt.NDArray[np.uint16] = field(init=False, repr=False)
    visits: npt.NDArray[np.uint16] = field(init=False, repr=False)
    extra: dict[str, npt.NDArray[Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ConfigError(f"num_samples={self.num_samples}: a score table needs at least one sample")
        self.score = np.full(self.num_samples, np.nan, np.float32)
        self.stamp = np.zeros(self.num_samples, np.uint16)
        self.visits = np.zeros(self.num_samples, np.uint16)
        self.extra = {
            spec.name: np.full(self.num_samples, np.nan if spec.fold == "ema" else 0, spec.dtype)
            for spec in self.columns
        }

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
            columns: by declared name, (n,) each.

        Raises:
            ConfigError: shapes differ, an index is out of range, a column is missing or unknown. Nothing has
                changed then.
        """
        columns = columns or {}
        self._check(epoch, indices, scores, columns)
        stamp = np.uint16(epoch + 1)
        finite = np.isfinite(scores)
        fresh = self.stamp[indices] <= stamp
        chosen = finite & fresh
        counts = UpdateCounts(
            accepted=int(np.count_nonzero(chosen)),
            non_finite=len(scores) - int(np.count_nonzero(finite)),
            stale=int(np.count_nonzero(finite & ~fresh)),
        )
        if counts.accepted != len(scores):
            indices, scores = indices[chosen], scores[chosen]
            columns = {name: values[chosen] for name, values in columns.items()}
        self._fold_columns(indices, columns)
        rising = indices[self.stamp[indices] < stamp]
        seen = self.visits[rising]
        self.visits[rising] = seen + (seen < np.iinfo(np.uint16).max)
        self.score[indices] = scores
        self.stamp[indices] = stamp
        return counts

    def seed(
        self, first: int, scores: npt.NDArray[np.float32], stamps: npt.NDArray[np.uint16] | None = None
    ) -> UpdateCounts:
        """Puts scores (n,) of samples first … first+n−1 into the table; NaN leaves a sample unscored.

        Args:
            first: the first sample.
            scores: float32 (n,).
            stamps: uint16 (n,): epoch + 1 of each score; None: 0, that is, from before epoch 0.

        Raises:
            ConfigError: the range is outside [0, N), the lengths differ, or a stamp is none. Nothing has changed then.
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

    def lower_stamps(self, epoch: int) -> None:
        """Rewinds to the start of an epoch: stamps of it and of later ones become those of the epoch before.

        Scores stay: they are the best that is known. Redone epochs may then store theirs.
        """
        np.minimum(self.stamp, np.uint16(min(epoch, MAX_EPOCHS)), out=self.stamp)

    @property
    def num_scored(self) -> int:
        """Samples that have a score."""
        return count_scored(self.score)

    def to_arrow(self) -> pa.Table:
        """The table as Arrow, without a copy: columns score (NaN: never scored), stamp, visits, and the policy's.

        The arrays share the table's memory: later updates show in them. Copy what must not change.
        """
        own: dict[str, npt.NDArray[Any]] = {
            "score": self.score,
            "stamp": self.stamp,
            "visits": self.visits,
            **self.extra,
        }
        return pa.table(
            {
                name: pa.Array.from_buffers(
                    pa.from_numpy_dtype(values.dtype), self.num_samples, [None, pa.py_buffer(values)]
                )
                for name, values in own.items()
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
        if set(columns) != set(self.extra):
            raise ConfigError(f"columns {sorted(columns)} were given, the policy declares {sorted(self.extra)}")
        for name, values in columns.items():
            if values.shape != scores.shape:
                raise ConfigError(f"column {name} {values.shape} and scores {scores.shape} differ in shape")

    def _fold_columns(self, indices: npt.NDArray[np.int64], columns: Mapping[str, npt.NDArray[Any]]) -> None:
        for spec in self.columns:
            values, old = columns[spec.name], self.extra[spec.name]
            if spec.fold == "last":
                old[indices] = values
                continue
            # Records are folded in the journal's order, one rank of repeats at a time.
            weight = float(fraction(spec.ema_weight, spec.name))
            usable = np.isfinite(values)
            sound, values = indices[usable], values[usable]
            for turn in _turns(sound):
                at, value = sound[turn], values[turn]
                mixed = weight * value + (1 - weight) * old[at]
                old[at] = np.where(np.isnan(old[at]), value, mixed)


def _turns(indices: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Positions of `indices` in groups without repeats: the first of each index, the second of each, and so on."""
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, np.int64)
    turn = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.r_[starts, len(ordered)]))
    by_turn = order[np.argsort(turn, kind="stable")]
    return np.split(by_turn, np.cumsum(np.bincount(turn))[:-1]) if len(turn) else []
