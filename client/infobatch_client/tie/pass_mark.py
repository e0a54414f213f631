"""The mark of a pass on the batches that torch's `default_collate` makes of its rows: whose batches they are.

Two data sets of one size and seed have equal indices and weights, so a batch needs something else to say whose it is.
The first row of a batch is of a type that `default_collate` collates by a function of ours, through torch's extension
point `default_collate_fn_map`; `dataset.collate` knows it too. The mark is written into the memory behind the index
tensor's last element, where it stays through worker queues, views and slices; the tensor is a plain one. A batch that
another collate function has made, or that `pin_memory`, `.to` or `.clone` has copied, has no mark, and can't be told
from another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import default_collate_fn_map

from infobatch_client.tie.rows import Beside

__all__ = ["mark_of", "marked_row", "with_mark_of"]

_SIGN = 0x1B57A64D5EED0A11  # no tensor of samples has it by chance


class _MarkedTuple(tuple[Any, ...]):
    mark: int


class _MarkedBeside(_MarkedTuple, Beside):
    """A row (payload, index, weight)."""


class _MarkedDict(dict[str, Any]):
    mark: int


def marked_row(row: tuple[Any, ...] | dict[str, Any], mark: int) -> tuple[Any, ...] | dict[str, Any]:
    """A row with its tie, equal to the one that is passed, as the first row of a batch.

    Args:
        row: (…, index, weight), or a dict with `__index__`.
        mark: in [1, 2⁶³).
    """
    made: _MarkedDict | _MarkedTuple
    if isinstance(row, dict):
        made = _MarkedDict(row)
    else:
        made = _MarkedBeside(row) if isinstance(row, Beside) else _MarkedTuple(row)
    made.mark = mark
    return made


def mark_of(index: torch.Tensor) -> int | None:
    """The mark of a batch's index, int64; None if it has none."""
    if not index.is_cpu or index.layout != torch.strided:
        return None
    elements = index.untyped_storage().nbytes() // 8
    if elements < 2:
        return None
    sign, mark = index.detach().as_strided((2,), (1,), elements - 2).tolist()
    return int(mark) if sign == _SIGN else None


def with_mark_of(row: object, index: torch.Tensor) -> torch.Tensor:
    """A batch's index, int64 (B,), with the mark of its first row, if that has one."""
    return _marked(index, row.mark) if isinstance(row, (_MarkedTuple, _MarkedDict)) else index


def _marked(index: Any, mark: int) -> Any:
    """A copy of an index, int64 (B,), with the mark behind it; anything else as it is."""
    if not isinstance(index, torch.Tensor) or index.dtype != torch.int64 or index.ndim != 1 or not index.is_cpu:
        return index
    return torch.cat([index, torch.tensor([_SIGN, mark], device="cpu")])[:-2]


def _collate_tuples(rows: Sequence[Any], *, collate_fn_map: Any = None) -> list[Any]:
    batch: list[Any] = default_collate([tuple(rows[0]), *rows[1:]])
    batch[-2] = _marked(batch[-2], rows[0].mark)
    return batch


def _collate_dicts(rows: Sequence[Any], *, collate_fn_map: Any = None) -> dict[str, Any]:
    batch: dict[str, Any] = default_collate([dict(rows[0]), *rows[1:]])
    if "__index__" in batch:  # a stage or a collate function may have taken it out
        batch["__index__"] = _marked(batch["__index__"], rows[0].mark)
    return batch


default_collate_fn_map.update({_MarkedTuple: _collate_tuples, _MarkedDict: _collate_dicts})
