"""Rows and batches with their tie: the sample index and the weight of every row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.row_counts import RowCounts

__all__ = ["BatchRows", "Beside", "TiedBatch", "tied_row", "untied_row", "with_tie", "without_tie"]


class TiedBatch(NamedTuple):
    """A collated payload and beside it the tie of every row.

    Args:
        payload: `collate_fn`'s output for B payloads.
        indices: int64 (B,), sample indices; −1 in rows that fill.
        weights: float32 (B,), 0 in rows that fill.
        keyed: the batch is torch's of dicts, and gets two more keys.
        counts: of the batch's rows.
    """

    payload: Any
    indices: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    keyed: bool
    counts: RowCounts


class BatchRows(NamedTuple):
    """The rows of one batch before they are collated.

    Args:
        payloads: B of them; those that fill are copies of others.
        indices, weights, counts: as in `TiedBatch`.
    """

    payloads: list[Any]
    indices: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    counts: RowCounts


def without_tie(payload: dict[str, Any]) -> dict[str, Any]:
    """A payload without the keys that the reader adds."""
    return {key: value for key, value in payload.items() if key not in ("__index__", "__weight__")}


def with_tie(payload: Any, keyed: bool, extra: Mapping[str, Any]) -> Any:
    """A batch with `__index__` and `__weight__` as two more keys, if it is torch's default batch of dicts."""
    return {**payload, **extra} if keyed and isinstance(payload, dict) else payload


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
