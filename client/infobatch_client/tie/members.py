"""The members of an object: what its `__dict__` and its slots hold."""

from __future__ import annotations

import types
from collections.abc import Iterator, MutableMapping
from typing import Any

__all__ = ["paired_members", "set_state"]

Members = MutableMapping[str, Any]


def paired_members(one: Any, other: Any) -> Iterator[tuple[Members, Members]]:
    """The members of two objects by name, first those of their `__dict__`, then those in slots of any base class.

    Writing into a mapping sets the member, past a `__setattr__` of the class. An object without such members, or two
    of different classes, give less.
    """
    if in_dict := _attributes(one):
        others = _attributes(other)
        if others is not None:
            yield in_dict, others
    if isinstance(other, type(one)):
        for base in type(one).__mro__:
            if base.__dict__.get("__slots__"):
                yield _Slots(base, one), _Slots(base, other)


def set_state(made: Any, state: Any) -> None:
    """Gives a new object the state of a pickled one, as unpickling does."""
    if hasattr(type(made), "__setstate__"):
        made.__setstate__(state)
        return
    in_dict, in_slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if in_dict:
        made.__dict__.update(in_dict)
    for name, part in (in_slots or {}).items():
        object.__setattr__(made, name, part)


class _Slots(MutableMapping[str, Any]):
    """The slots of one class that are set in an object."""

    def __init__(self, base: type, value: Any) -> None:
        self._slots = {
            name: slot for name, slot in base.__dict__.items() if isinstance(slot, types.MemberDescriptorType)
        }
        self._value = value

    def __getitem__(self, name: str) -> Any:
        try:
            return self._slots[name].__get__(self._value)
        except AttributeError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, part: Any) -> None:
        self._slots[name].__set__(self._value, part)

    def __delitem__(self, name: str) -> None:
        self._slots[name].__delete__(self._value)

    def __iter__(self) -> Iterator[str]:
        return (name for name, slot in self._slots.items() if _is_set(slot, self._value))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _is_set(slot: types.MemberDescriptorType, value: Any) -> bool:
    try:
        slot.__get__(value)
    except AttributeError:
        return False
    return True


def _attributes(value: Any) -> Any:
    """An object's `__dict__`, past a `__getattr__` of its own; None without one."""
    try:
        return object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
