"""Whole numbers as users give them: Python's or numpy's, never a bool, a float or a string."""

from __future__ import annotations

import operator
from typing import SupportsIndex

from infobatch_stream.errors import ConfigError

__all__ = ["whole_number"]


def whole_number(value: SupportsIndex, name: str, least: int = 0) -> int:
    """`value` as an int ≥ `least`.

    Raises:
        ConfigError: it is another type, or less.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ConfigError(f"{name}={value!r} is a {type(value).__name__}; it must be a whole number")
    number = operator.index(value)
    if number < least:
        raise ConfigError(f"{name}={number} must be at least {least}")
    return number
