"""Columns that a policy keeps per sample beside the score: their declaration, and how new values are folded in."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.ratios import decimal_string, fraction

__all__ = ["COLUMN_DTYPES", "ColumnSpec", "PushedColumn", "empty_arrays", "fold"]

COLUMN_DTYPES = ("float32", "float64", "int32", "int64", "uint8", "uint16")
FOLDS = ("last", "ema", "mean_square", "previous", "streak")
_AVERAGES = ("ema", "mean_square")
_TABLES = ("score", "stamp", "visits")
_CONDITION = re.compile(r"(<=|<|>=|>) ?([^ ]+)")
_COMPARE: dict[str, Callable[..., Any]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


@dataclass(frozen=True, kw_only=True)
class PushedColumn:
    """The values that a client pushes beside the scores for one column.

    Args:
        name: the column's.
        dtype: of the values, one of COLUMN_DTYPES; of a "streak", whose column counts, float32.
    """

    name: str
    dtype: str


@dataclass(frozen=True, kw_only=True)
class ColumnSpec:
    """A column that a policy keeps beside the score, one value per sample.

    Each stored record of a sample folds one value into the column: a number that the client pushes beside the loss,
    or the score itself. Records are folded in their order of arrival, repeats of a sample in one push included.
    Records that store no score (a NaN or infinite score, or one of an earlier epoch than the sample's newest) fold
    nothing. A rewind leaves columns as they are, like scores: epochs that are trained again fold again. A sample that
    is updated more than once in an epoch (SAM, LBFGS) folds at least its newest record: the client drops older ones
    that it has not sent yet.

    | fold | value | before the first | NaN and ±Inf |
    |---|---|---|---|
    | "last" | the newest | 0 | stored |
    | "ema" | w·new + (1−w)·old; the first as it is | NaN | passed over |
    | "mean_square" | the ema of squares; with an "ema", a variance | NaN | passed over, as are squares that overflow |
    | "previous" | the one before the newest; NaN (0 for integers) until there are two | NaN (0) | passed over |
    | "streak" | records in a row that meet `condition`, 0 after one that doesn't; stays at the dtype's maximum | 0 | \
compared: NaN meets no condition |

    Memory on the server is one value of `dtype` per sample. "previous" of a pushed value keeps the newest too: twice
    as much, and a policy finds it beside the column as "<name>.last". "previous" of the score needs no second array:
    the newest is the table's score, and an imported score counts as one.

    Args:
        name: an identifier; not one of the table's own columns (score, stamp, visits).
        dtype: one of COLUMN_DTYPES; a float for "ema", "mean_square" and source="score", an integer for "streak".
        fold: how a new value meets the old one, as above.
        ema_weight: w in (0, 1] as a decimal string, for "ema" and "mean_square".
        condition: for "streak": "<", "<=", ">" or ">=", and a decimal number: ">= 0.5". Compared exactly.
        source: "pushed" (the client sends a value with each score: `pushed`) or "score" (the table folds the sample's
            score, and the client pushes nothing).

    Example:
        >>> ColumnSpec(name="before", fold="previous", source="score").dtype
        'float32'
    """

    name: str
    dtype: str = "float32"
    fold: str = "last"
    ema_weight: str = ""
    condition: str = ""
    source: str = "pushed"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier() or self.name in _TABLES:
            raise ConfigError(f"column name {self.name!r} is not a free identifier")
        if self.dtype not in COLUMN_DTYPES:
            raise ConfigError(f"column {self.name}: dtype={self.dtype!r} is none of {', '.join(COLUMN_DTYPES)}")
        if self.fold not in FOLDS:
            raise ConfigError(f"column {self.name}: fold={self.fold!r} is none of {', '.join(FOLDS)}")
        if self.source not in ("pushed", "score"):
            raise ConfigError(f"column {self.name}: source={self.source!r} is neither 'pushed' nor 'score'")
        if self.ema_weight != "":
            name = f"column {self.name}: ema_weight"
            object.__setattr__(self, "ema_weight", decimal_string(self.ema_weight, name))
        self._check_dtype()
        self._check_settings()

    @property
    def pushed(self) -> PushedColumn | None:
        """The values that the client pushes; None if the column folds the score."""
        if self.source == "score":
            return None
        return PushedColumn(name=self.name, dtype="float32" if self.fold == "streak" else self.dtype)

    @property
    def sample_bytes(self) -> int:
        """Bytes that the column takes per sample."""
        return int(np.dtype(self.dtype).itemsize * len(empty_arrays(self, 0)))

    def is_met_by(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether each value, (n,), meets the condition of a "streak", bool (n,)."""
        compare, number = self._limit()
        met: npt.NDArray[np.bool_] = compare(
            values.astype(np.float32, copy=False), _nearest(number, up=compare in (np.less, np.greater_equal))
        )
        return met

    def _check_dtype(self) -> None:
        is_float = self.dtype.startswith("float")
        if self.fold == "streak" and is_float:
            raise ConfigError(f"column {self.name}: fold='streak' needs an integer dtype, not {self.dtype}")
        if is_float or self.fold == "streak":
            return
        if self.fold in _AVERAGES:
            raise ConfigError(f"column {self.name}: fold={self.fold!r} needs a float dtype, not {self.dtype}")
        if self.source == "score":
            raise ConfigError(f"column {self.name}: source='score' needs a float dtype, not {self.dtype}")

    def _check_settings(self) -> None:
        if self.fold == "streak":
            self._limit()
        elif self.condition:
            raise ConfigError(f"column {self.name}: condition={self.condition!r} goes with fold='streak' only")
        if self.fold not in _AVERAGES:
            if self.ema_weight:
                raise ConfigError(
                    f"column {self.name}: ema_weight={self.ema_weight!r} goes with fold='ema' or 'mean_square' only"
                )
        elif not 0 < fraction(self.ema_weight, f"column {self.name}: ema_weight") <= 1:
            raise ConfigError(f"column {self.name}: ema_weight={self.ema_weight} is outside (0, 1]")

    def _limit(self) -> tuple[Callable[..., Any], Fraction]:
        match = _CONDITION.fullmatch(self.condition)
        if match is None:
            raise ConfigError(
                f"column {self.name}: condition={self.condition!r} is not a comparison with a number, such as '>= 0.5'"
            )
        return _COMPARE[match[1]], fraction(match[2], f"column {self.name}: condition")


def empty_arrays(spec: ColumnSpec, num_samples: int) -> dict[str, npt.NDArray[Any]]:
    """A column's arrays before the first record, (N,) each, by name."""
    unknown = spec.fold in _AVERAGES or (spec.fold == "previous" and spec.dtype.startswith("float"))
    names = [spec.name]
    if spec.fold == "previous" and spec.source == "pushed":
        names.append(f"{spec.name}.last")
    return {name: np.full(num_samples, np.nan if unknown else 0, spec.dtype) for name in names}


def fold(
    spec: ColumnSpec,
    arrays: dict[str, npt.NDArray[Any]],
    indices: npt.NDArray[np.int64],
    values: npt.NDArray[Any],
    score: npt.NDArray[np.float32],
) -> None:
    """Folds one value per record into a column, record by record.

    Args:
        spec: the column.
        arrays: the table's columns by name, (N,) each; those of `empty_arrays(spec, N)` change.
        indices: int64 (n,), which may repeat.
        values: (n,); the records' scores where the column's source is "score".
        score: float32 (N,), scores as they were before these records.
    """
    column = arrays[spec.name]
    if spec.fold == "last":
        column[indices] = values
    elif spec.fold == "streak":
        met, most = spec.is_met_by(values), np.iinfo(column.dtype).max
        for repeat in _occurrences(indices):
            count = column[indices[repeat]]
            column[indices[repeat]] = np.where(met[repeat], count + (count < most), 0)
    elif spec.fold == "previous":
        indices, values = _finite(indices, values)
        newest = score if spec.source == "score" else arrays[f"{spec.name}.last"]
        order, before = _values_before(indices, values, newest)
        column[indices[order]] = before
        if spec.source == "pushed":
            newest[indices] = values
    else:
        _average(spec, column, indices, values)


def _average(
    spec: ColumnSpec, column: npt.NDArray[Any], indices: npt.NDArray[np.int64], values: npt.NDArray[Any]
) -> None:
    values = values.astype(column.dtype, copy=False)
    if spec.fold == "mean_square":
        with np.errstate(over="ignore"):
            values = np.square(values)
    indices, values = _finite(indices, values)
    weight = float(fraction(spec.ema_weight, spec.name))
    for repeat in _occurrences(indices):
        at, value = indices[repeat], values[repeat]
        mixed = weight * value + (1 - weight) * column[at]
        column[at] = np.where(np.isnan(column[at]), value, mixed)


def _finite(indices: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    usable = np.isfinite(values)
    return indices[usable], values[usable]


def _values_before(
    indices: npt.NDArray[np.int64], values: npt.NDArray[Any], newest: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """The records in order of their samples, (n,), and the value that each one's sample had before it, (n,)."""
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    before = newest[ordered]
    repeats = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    before[repeats] = values[order[repeats - 1]]
    return order, before


def _occurrences(indices: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Positions of `indices` in groups without repeats: the first of each index, the second of each, and so on."""
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, np.int64)
    occurrence = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.r_[starts, len(ordered)]))
    by_occurrence = order[np.argsort(occurrence, kind="stable")]
    return np.split(by_occurrence, np.cumsum(np.bincount(occurrence))[:-1]) if len(occurrence) else []


def _nearest(number: Fraction, *, up: bool) -> float:
    """The least float32 that isn't below a number (`up`), or the largest that isn't above: no float32 lies between."""
    with np.errstate(over="ignore"):
        value = np.float32(math.copysign(math.inf, number) if abs(number) >= 2**129 else float(number))
        if np.isinf(value):
            return float(value if up == (value > 0) else np.nextafter(value, np.float32(0)))
        exact = Fraction(float(value))
        if up and exact < number:
            return float(np.nextafter(value, np.float32(math.inf)))
        if not up and exact > number:
            return float(np.nextafter(value, np.float32(-math.inf)))
    return float(value)
