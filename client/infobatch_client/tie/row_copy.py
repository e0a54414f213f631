"""Copies of a row that fill a batch: they share nothing that a `collate_fn` or a training loop could write into."""

from __future__ import annotations

import copy
import copyreg
import sys
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import torch

from infobatch_client.tie.members import paired_members, set_state
from infobatch_client.user_warnings import warn_user

__all__ = ["row_copy"]

_warned: set[type] = set()


def row_copy(row: Any, *, warn: bool = True) -> Any:
    """An independent copy of a row.

    Tensors, arrays, images, buffers, containers and dataclasses are copied with their Python attributes, one within the
    other. Numbers, texts, functions and keys are shared; anything else is copied by its `__deepcopy__`, or else by what
    it is pickled by. A part that can't be copied, such as an open file, is shared with the row; what it is part of is
    not.

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
        known = len(self._memo)
        try:
            made = self._new(value, kind)
        except Exception as error:
            self._forget(known)
            made = self._shared(value, kind, error)
        self._memo[id(value)] = made
        return made

    def _new(self, value: Any, kind: type) -> Any:
        if (make := _MAKERS.get(kind)) is not None:
            return make(value)
        if kind is tuple:
            return tuple([self.copied(part) for part in value])
        if kind is list or kind is dict:
            return self._of_container(value, kind, kind)
        if isinstance(value, torch.Tensor):
            return self._of_tensor(value, kind)
        if isinstance(value, np.ndarray):
            return self._of_array(value, kind)
        if (image := sys.modules.get("PIL.Image")) is not None and isinstance(value, image.Image):
            return self._of_image(value, kind)
        return self._of_object(value, kind)

    def _of_object(self, value: Any, kind: type) -> Any:
        if isinstance(value, (type, np.dtype)):
            return value
        if isinstance(value, np.void) and value.dtype.hasobject:
            return self.copied(np.array(value))[()]
        if hasattr(kind, "__deepcopy__"):
            try:
                return self._by_deepcopy(value)
            except Exception:  # of a part, perhaps: the others are copied below
                pass
        for base in _CONTAINERS:
            if isinstance(value, base) and _can_make(base, kind):
                return self._of_container(value, kind, base)
        made = self._by_pickle(value, kind)
        return self._with_members(made, value) if is_dataclass(value) else made

    def _of_container(self, value: Any, kind: type, base: Any) -> Any:
        """By the methods of the built-in class: a subclass's own may change what they are given, and have done so."""
        if base is tuple or base is frozenset:
            return self._with_members(base.__new__(kind, [self.copied(part) for part in base.__iter__(value)]), value)
        made = self._memo[id(value)] = base.__new__(kind)
        if base is defaultdict:
            made.default_factory = self.copied(value.default_factory)
        if issubclass(base, dict):
            for key, part in base.items(value):
                base.__setitem__(made, key, self.copied(part))
        else:
            parts = [self.copied(part) for part in base.__iter__(value)]
            base.__init__(made, parts, value.maxlen) if base is deque else base.__init__(made, parts)
        return made if kind is base else self._with_members(made, value)

    def _of_tensor(self, value: torch.Tensor, kind: type) -> Any:
        if kind is torch.Tensor:
            made: Any = _of_tensor(value)
            return self._with_members(made, value) if value.__dict__ else made
        try:
            made = self._by_deepcopy(value)
        except Exception:  # a graph, or a part
            made = _of_tensor(value)
        return self._with_members(made, value)

    def _of_array(self, value: np.ndarray[Any, Any], kind: Any) -> Any:
        if kind.__deepcopy__ is not np.ndarray.__deepcopy__:
            try:
                return self._with_members(self._by_deepcopy(value), value)
            except Exception:
                pass
        made = self._by_pickle(value, kind) if value.dtype.hasobject else value.copy(order="K")
        return made if kind is np.ndarray else self._with_members(made, value)

    def _of_image(self, value: Any, kind: Any) -> Any:
        """`Image.copy` would give an image without type, format, file name and attributes of its own."""
        value.load()
        made = self._memo[id(value)] = kind.__new__(kind)
        its_own = {"readonly": 0, "_readonly": 0, "map": None}  # as its pixels belong to no buffer or file
        for name, part in vars(value).items():
            if part is value.im:
                made.__dict__[name] = part.copy()
            else:
                made.__dict__[name] = its_own[name] if name in its_own else self.copied(part)
        return made

    def _by_pickle(self, value: Any, kind: type) -> Any:
        """As deepcopy copies an object that has no `__deepcopy__`, part by part."""
        reduce = copyreg.dispatch_table.get(kind)
        reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        if isinstance(reduced, str):
            return value
        make, args, state, parts, pairs = (*reduced, None, None, None)[:5]
        made = self._memo[id(value)] = make(*[self.copied(part) for part in args])
        if state is not None:
            set_state(made, self.copied(state))
        for part in parts or ():
            made.append(self.copied(part))
        for key, part in pairs or ():
            made[key] = self.copied(part)
        return made

    def _by_deepcopy(self, value: Any) -> Any:
        known = len(self._memo)
        try:
            return copy.deepcopy(value, self._memo)
        except Exception:
            self._forget(known)
            raise

    def _with_members(self, made: Any, value: Any) -> Any:
        """Gives a copy the attributes and slots that it lacks, or shares with `value`."""
        self._memo[id(value)] = made
        if made is value:
            return made
        for members, own in paired_members(value, made):
            for name, part in members.items():
                if name not in own or own[name] is part:
                    own[name] = self.copied(part)
        return made

    def _forget(self, known: int) -> None:
        """Copies that were begun before something failed are only half made."""
        while len(self._memo) > known:
            self._memo.popitem()

    def _shared(self, value: Any, kind: type, error: Exception) -> Any:
        if self._warn and kind not in _warned:
            _warned.add(kind)
            warn_user(
                f"rows that fill a batch share a {kind.__module__}.{kind.__qualname__} with a real row, as it can't be "
                f"copied ({error}): whatever changes it there changes the real row too. Let the pipeline make tensors "
                "of it, or give its class a __deepcopy__",
            )
        return value


def _can_make(base: Any, kind: type) -> bool:
    """Whether a class is one of Python's own, or made from it in Python: a class made in C has memory of its own."""
    try:
        base.__new__(kind)
    except TypeError:
        return False
    return True


def _of_tensor(value: torch.Tensor) -> torch.Tensor:
    # deepcopy would copy the whole storage, of which a row may be a small part, and refuses a tensor with a graph.
    return value.detach().clone().requires_grad_(value.requires_grad)


def _of_memoryview(value: Any) -> Any:
    made: Any = memoryview(bytearray(value))
    made = made.cast(value.format, value.shape)
    return made.toreadonly() if value.readonly else made


_CONTAINERS: tuple[Any, ...] = (OrderedDict, defaultdict, dict, list, tuple, deque, set, frozenset)
_SHARED = {
    *(type(None), bool, int, float, complex, str, range, type, type(...), type(NotImplemented)),
    *(types.FunctionType, types.BuiltinFunctionType, types.CodeType, property, weakref.ref),
    *(torch.dtype, torch.device, torch.Size),
}
_MAKERS: dict[type, Callable[[Any], Any]] = {
    bytes: lambda value: bytes(bytearray(value)),  # numpy and torch can write into arrays that they make of bytes
    bytearray: bytearray,
    memoryview: _of_memoryview,
}
