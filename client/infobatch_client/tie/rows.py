"""Rows and batches with their tie: the sample index and the weight of every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.row_counts import RowCounts

__all__ = [
    "BatchRows",
    "Beside",
    "TiedBatch",
    "failed_samples",
    "tied_row",
    "untied_row",
    "with_failed",
    "with_tie",
    "without_tie",
]


class TiedBatch(NamedTuple):
    """A collated payload and beside it the tie of every row.

    Args:
        payload: `collate_fn`'s output for B payloads.
        indices: int64 (B,), sample indices; −1 in rows that fill.
        weights: float32 (B,), 0 in rows that fill.
        keyed: the batch is torch's of dicts, and gets two more keys.
        counts: of the batch's rows.
        step: the batch's number in its pass, from 0.
        dropped: int64 (n,), samples that a stage dropped; None if there are none, or nobody asks.
    """

    payload: Any
    indices: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    keyed: bool
    counts: RowCounts
    step: int
    dropped: npt.NDArray[np.int64] | None = None


class BatchRows(NamedTuple):
    """The rows of one batch before they are collated.

    Args:
        payloads: B of them; those that fill are copies of others.
        indices, weights, counts, step, dropped: as in `TiedBatch`.
        failed: samples that could not be read, or on which a stage raised.
    """

    payloads: list[Any]
    indices: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    counts: RowCounts
    step: int
    dropped: npt.NDArray[np.int64] | None = None
    failed: Sequence[int] = ()


def without_tie(payload: dict[str, Any]) -> dict[str, Any]:
    """A payload without the keys that the reader adds."""
    return {key: value for key, value in payload.items() if key not in ("__index__", "__weight__")}


def with_tie(payload: Any, keyed: bool, extra: Mapping[str, Any]) -> Any:
    """A batch with `__index__` and `__weight__` as two more keys, if it is torch's default batch of dicts."""
    return {**payload, **extra} if keyed and isinstance(payload, dict) else payload


def with_failed(batch: BatchRows) -> npt.NDArray[np.int64]:
    """The batch's indices (B,), in which rows that fill name the samples that failed: −2 − sample, in place of −1.

    A plain loop can't see its workers. By this it tells samples that a stage dropped from those that failed.
    """
    if not batch.failed:
        return batch.indices
    indices: npt.NDArray[np.int64] = batch.indices.copy()
    first = batch.counts.real
    indices[first : first + len(batch.failed)] = -2 - np.array(batch.failed, np.int64)
    return indices


def failed_samples(indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The samples that `with_failed` has named in indices (B,)."""
    samples: npt.NDArray[np.int64] = -2 - indices[indices < -1]
    return samples


class Beside(tuple[Any, ...]):
    """A row (payload, index, weight) of a payload that is no tuple: it can be told from a tuple's row."""

    __slots__ = ()


def tied_row(payload: Any, index: int, weight: Any) -> Any:
    """A payload with its tie: two more items of a tuple, two more keys of a dict, or (payload, index, weight).

    A named tuple is of the last kind: with two more items it would lose its names.
    """
    if isinstance(payload, dict):
        return {**payload, "__index__": index, "__weight__": weight}
    if isinstance(payload, tuple) and not hasattr(payload, "_fields"):
        return (*payload, index, weight)
    return Beside((payload, index, weight))


def untied_row(row: Any) -> tuple[Any, int, Any]:
    """Payload, index and weight of what `tied_row` has returned.

    Raises:
        ConfigError: it has returned no such row.
    """
    if isinstance(row, dict) and "__index__" in row and "__weight__" in row:
        return without_tie(row), row["__index__"], row["__weight__"]
    if isinstance(row, tuple) and len(row) >= 2 and isinstance(row[-1], np.float32) and isinstance(row[-2], int):
        return (row[0] if isinstance(row, Beside) else row[:-2]), row[-2], row[-1]
    raise ConfigError(
        f"dataset.collate(…) got a {type(row).__name__} without index and weight: it is for the rows of an "
        "InfoBatchStreamDataset in a plain DataLoader; InfoBatchLoader takes collate_fn= as it is"
    )
