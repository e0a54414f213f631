"""Rows and batches with their tie: the sample index and the weight of every row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from infobatch_stream.row_counts import RowCounts

__all__ = ["BatchRows", "TiedBatch", "tied_row", "with_tie", "without_tie"]


class TiedBatch(NamedTuple):
    """A collated payload and beside it the tie of every row.

    Args:
        payload: `collate_fn`'s output for B payloads.
        indices: int64 (B,), sample indices; −1 in rows that fill.
        weights: float32 (B,), 0 in rows that fill.
        keyed: the payloads were dicts.
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
    """A batch with `__index__` and `__weight__` as two more keys, if it is a dict made of dicts."""
    return {**payload, **extra} if keyed and isinstance(payload, dict) else payload


def tied_row(payload: Any, index: int, weight: Any) -> Any:
    """A payload with its tie: two more items of a tuple, two more keys of a dict, or (payload, index, weight)."""
    if isinstance(payload, dict):
        return {**payload, "__index__": index, "__weight__": weight}
    if isinstance(payload, tuple):
        return (*payload, index, weight)
    return (payload, index, weight)
