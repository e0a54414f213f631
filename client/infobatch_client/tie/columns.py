"""The columns that a policy declares, as a loop pushes them beside the scores: checked, with the declared dtypes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch

from infobatch_stream.errors import LossError

__all__ = ["DeclaredColumn", "checked_columns"]


class DeclaredColumn(Protocol):
    """A column of a policy, as far as a loop needs it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def dtype(self) -> str:
        """numpy's and torch's name of its dtype, such as "float32"."""


def checked_columns(
    columns: Mapping[str, torch.Tensor] | None, declared: Iterable[DeclaredColumn], rows: int
) -> dict[str, tuple[torch.Tensor, torch.dtype]]:
    """Each declared column's tensor (B,), and the dtype to convert it to.

    Args:
        columns: tensor (B,) by name, on any device: floats for a float column, integers or bools for an integer one.
        declared: the policy's columns that are pushed.
        rows: B.

    Raises:
        LossError: a column is missing, unknown, of another shape or kind, or may have values that its dtype can't hold.
    """
    specs = {spec.name: spec for spec in declared}
    if not isinstance(columns, Mapping):
        if columns is not None:
            raise LossError(f"columns is a {type(columns).__name__}; pass a dict of tensors ({rows},) by name")
        columns = {}
    if columns.keys() != specs.keys():
        unknown = ", ".join(repr(name) for name in columns if name not in specs)
        missing = ", ".join(repr(name) for name in specs if name not in columns)
        wrong = " and ".join(f"{word} {names}" for word, names in (("lacks", missing), ("has", unknown)) if names)
        if not specs:
            raise LossError(f"columns= {wrong}; the run's policy declares no columns to push: leave columns= out")
        named = ", ".join(f"{spec.name!r} ({spec.dtype})" for spec in specs.values())
        raise LossError(
            f"columns= {wrong}; the run's policy declares {named}: pass exactly these with every update, as "
            f"columns={{{next(iter(specs))!r}: tensor ({rows},), …}}"
        )
    return {name: (columns[name], _checked_dtype(columns[name], spec, rows)) for name, spec in specs.items()}


def _checked_dtype(values: object, spec: DeclaredColumn, rows: int) -> torch.dtype:
    name = f"columns[{spec.name!r}]"
    if not isinstance(values, torch.Tensor):
        raise LossError(f"{name} is a {type(values).__name__}; pass a tensor ({rows},), one value per sample")
    if values.shape != (rows,):
        raise LossError(f"{name} has shape {tuple(values.shape)}; it must be ({rows},), one value per sample")
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if values.is_complex() or values.is_floating_point() != dtype.is_floating_point:
        kind = "floating" if dtype.is_floating_point else "an integer or bool"
        raise LossError(f"{name} has dtype {values.dtype}; the policy declares {spec.dtype}, so it must be {kind}")
    if not dtype.is_floating_point and values.dtype not in (dtype, torch.bool):
        _check_range(values, dtype, name)
    return dtype


def _check_range(values: torch.Tensor, dtype: torch.dtype, name: str) -> None:
    """Raises if integers don't fit; on a GPU, which must not be waited for, if their dtype doesn't."""
    bounds, possible = torch.iinfo(dtype), torch.iinfo(values.dtype)
    if (bounds.min <= possible.min and possible.max <= bounds.max) or len(values) == 0:
        return
    if values.device.type != "cpu":
        raise LossError(
            f"{name} is {values.dtype} on {values.device}, and may not fit into the declared {dtype}: convert it with "
            f".to({dtype}) if you know that it does"
        )
    array = values.numpy()  # torch's unsigned types have no minimum of their own
    low, high = int(array.min()), int(array.max())
    if low < bounds.min or high > bounds.max:
        raise LossError(
            f"{name} has values from {low} to {high}; the declared {dtype} holds {bounds.min} to {bounds.max}"
        )
