"""The types that a policy's settings may have, and the checks of a value against the type of its field."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import numpy as np

from infobatch_stream.errors import ConfigError
from infobatch_stream.ratios import Number, Pairs, decimal_pairs, decimal_string

__all__ = ["ParamValue", "checked_setting", "setting_types"]

ParamValue = int | float | str | bool | tuple[float, ...]
"""A setting as it is stored and sent."""

_SCALARS: dict[Any, tuple[type, ...]] = {
    bool: (bool, np.bool_),
    int: (int, np.integer),
    float: (float, int, np.floating, np.integer),
    str: (str,),
}


@lru_cache(maxsize=256)
def setting_types(policy: type) -> dict[str, Any]:
    """The type of each setting of a policy's class, by name."""
    hints = get_type_hints(policy)
    return {spec.name: _plain(hints[spec.name]) for spec in fields(policy)}


def checked_setting(name: str, value: object, wanted: Any, *, unset: object) -> object:
    """A setting as its field stores it: a number that decides bits as its decimal string, a list of floats as a tuple.

    Args:
        name: for the message.
        value: given by the user, or received.
        wanted: the field's type: bool, int, float, str, tuple[float, ...], Number or Pairs. Fields of other types are
            left alone; they can't be sent.
        unset: the field's default; "" stays "".

    Raises:
        ConfigError: a value of another type.
    """
    if wanted in (Number, Pairs):
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if unset == "" == value:
            return value
        if wanted == Number:
            return decimal_string(cast(Number, value), name)
        return decimal_pairs(cast(Pairs, value), name)
    if wanted == tuple[float, ...]:
        if isinstance(value, list | tuple | np.ndarray) and all(_is_a(part, float) for part in value):
            return tuple(float(part) for part in value)
        raise _wrong(name, value, "tuple of floats")
    if wanted not in _SCALARS:
        return value
    if not _is_a(value, wanted):
        raise _wrong(name, value, wanted.__name__)
    return wanted(value)


def _plain(hint: Any) -> Any:
    """The type of the values of a Literal; the policy itself checks which of them it has."""
    return type(get_args(hint)[0]) if get_origin(hint) is Literal else hint


def _is_a(value: object, wanted: type) -> bool:
    """Whether a value is of a scalar type. NaN never is: it doesn't equal itself, so specs with it would differ."""
    if isinstance(value, bool) and wanted is not bool:
        return False
    return isinstance(value, _SCALARS[wanted]) and value == value


def _wrong(name: str, value: object, wanted: str) -> ConfigError:
    article = "an" if wanted[0] in "aeiou" else "a"
    return ConfigError(f"{name} must be {article} {wanted}, got {value!r} ({type(value).__name__})")
