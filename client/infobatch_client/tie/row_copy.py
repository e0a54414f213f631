"""Copies of a row that fill a batch: they share nothing that a `collate_fn` or a training loop could write into."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from infobatch_client.user_warnings import warn_user

__all__ = ["row_copy"]

_warned: set[type] = set()


def row_copy(row: Any, *, warn: bool = True) -> Any:
    """An independent copy of a row.

    Tensors, arrays, images, buffers, containers and dataclasses are copied, one within the other. Numbers and texts are
    shared; anything else is copied as `copy.deepcopy` does. A part that can't be copied, such as an open file, is
    shared with the row.

    Args:
        row: a pipeline's output.
        warn: names the type of a part that is shared in a warning, once in a process.
    """
    return _RowCopier(warn).copied(row)


class _RowCopier:
    """Copies one row; a part that occurs twice in it occurs twice in the copy."""

    def __init__(self, warn: bool) -> None:
        self._warn = warn
        self._memo: dict[int, Any] = {}  # by id, as deepcopy wants it
        self._alive: list[Any] = []  # so that no id is used again

    def copied(self, value: Any) -> Any:
        kind = type(value)
        if kind in _SHARED:
            return value
        if id(value) in self._memo:
            return self._memo[id(value)]
        self._alive.append(value)
        try:
            made = self._new(value, kind)
        except Exception as error:
            made = self._shared(value, kind, error)
        self._memo[id(value)] = made
        return made

    def _new(self, value: Any, kind: type) -> Any:
        if (make := _MAKERS.get(kind)) is not None:
            return make(value)
        if kind is tuple:
            return tuple([self.copied(part) for part in value])
        if isinstance(value, tuple) and hasattr(kind, "_make"):  # a named tuple
            return kind._make(map(self.copied, value))
        if kind is list or kind is dict:
            made = self._memo[id(value)] = kind()
            return self._filled(made, value)
        if (image := sys.modules.get("PIL.Image")) is not None and isinstance(value, image.Image):
            return value.copy()
        if not hasattr(kind, "__deepcopy__") and (is_dataclass(value) or isinstance(value, (dict, list))):
            return self._by_member(value)
        try:
            return copy.deepcopy(value, self._memo)
        except Exception:
            if isinstance(value, torch.Tensor):
                return _of_tensor(value)
            if not _has_members(kind) or not hasattr(value, "__dict__"):
                raise
            return self._by_member(value)

    def _by_member(self, value: Any) -> Any:
        """A shallow copy, whose members are then copied: deepcopy would do all of them or none."""
        made = self._memo[id(value)] = copy.copy(value)
        if isinstance(value, (dict, list)):
            self._filled(made, value)
        members = [field.name for field in fields(value)] if is_dataclass(value) else []
        for name in {*members, *getattr(value, "__dict__", ())}:
            if hasattr(made, name):
                object.__setattr__(made, name, self.copied(getattr(made, name)))
        return made

    def _filled(self, made: Any, value: Any) -> Any:
        if isinstance(value, dict):
            for key, part in value.items():
                made[key] = self.copied(part)
        else:
            made[:] = [self.copied(part) for part in value]
        return made

    def _shared(self, value: Any, kind: type, error: Exception) -> Any:
        if self._warn and kind not in _warned:
            _warned.add(kind)
            warn_user(
                f"rows that fill a batch share a {kind.__module__}.{kind.__qualname__} with a real row, as it can't be "
                f"copied ({error}): whatever changes it there changes the real row too. Let the pipeline make tensors "
                "of it, or give its class a __deepcopy__",
            )
        return value


def _has_members(kind: type) -> bool:
    """Whether an object's `__dict__` is all that it has."""
    return not any(base.__dict__.get("__slots__") for base in kind.__mro__)


def _of_tensor(value: torch.Tensor) -> torch.Tensor:
    # deepcopy would copy the whole storage, of which a row may be a small part, and refuses a tensor with a graph.
    return value.detach().clone().requires_grad_(value.requires_grad)


def _of_memoryview(value: Any) -> Any:
    made: Any = memoryview(bytearray(value))
    made = made.cast(value.format, value.shape)
    return made.toreadonly() if value.readonly else made


def _of_array(value: np.ndarray[Any, Any]) -> Any:
    return copy.deepcopy(value) if value.dtype.hasobject else value.copy(order="K")


_SHARED = {type(None), bool, int, float, complex, str, range, type, torch.dtype, torch.device, torch.Size}
_MAKERS: dict[type, Callable[[Any], Any]] = {
    bytes: lambda value: bytes(bytearray(value)),  # numpy and torch can write into arrays that they make of bytes
    bytearray: bytearray,
    memoryview: _of_memoryview,
    torch.Tensor: _of_tensor,
    np.ndarray: _of_array,
}
