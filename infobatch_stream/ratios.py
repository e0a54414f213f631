"""Exact numbers from decimal strings: what a float would round differently on two machines.

A ratio that decides bits is kept as the string the user wrote; the integers made from it are exact.
"""

from __future__ import annotations

import operator
import re
from decimal import Context, Decimal
from fractions import Fraction
from math import floor
from typing import SupportsIndex

from infobatch_stream.errors import ConfigError

__all__ = ["LANES", "anneal_epoch", "decimal_string", "fraction", "keep_lanes", "prune_count", "whole_number"]

# Two digits of exponent: a longer one would be a number of its own weight in memory.
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)

LANES = 65536
"""Keep probabilities are k/65536: a sample has one 16-bit lane of the draw."""


def decimal_string(value: float | int | str | Decimal, name: str) -> str:
    """The one decimal string of `value`, a float taken by its shortest repr: 0.5, "0.50" and "5e-1" give "0.5".

    Raises:
        ConfigError: `value` is not a finite decimal number.
    """
    text = str(value).strip()  # numpy's numbers by their own shortest form, not by a float64's
    if isinstance(value, bool) or not _is_decimal(text):
        raise ConfigError(f"{name}={value!r} is not a finite decimal number such as 0.5 or '0.875'")
    exact = Decimal(text).normalize(Context(prec=200))
    return f"{exact:f}" if exact else "0"


def fraction(text: str, name: str) -> Fraction:
    """The exact value of a decimal string.

    Raises:
        ConfigError: the string is not a decimal number.
    """
    if not _is_decimal(text):
        raise ConfigError(f"{name}={text!r} is not a finite decimal number such as '0.875'")
    return Fraction(text)


def keep_lanes(prune_ratio: str, name: str = "prune_ratio") -> int:
    """k = ⌊65536·(1 − r) + ½⌋ for a prune ratio r: of 65,536 lanes, those that keep a sample.

    Raises:
        ConfigError: r is outside [0, 1).
    """
    ratio = fraction(prune_ratio, name)
    if not 0 <= ratio < 1:
        raise ConfigError(f"{name}={prune_ratio} is outside [0, 1): it is the share of the class that is pruned")
    k = floor(LANES * (1 - ratio) + Fraction(1, 2))
    if k == 0:
        raise ConfigError(
            f"{name}={prune_ratio} keeps less than 1 sample in 131,072, which no weight can make up for; "
            "use policy='hard' to drop all of them"
        )
    return k


def anneal_epoch(delta: str, epochs: int) -> int:
    """⌊δ·C⌋, exactly: the first epoch that is trained unpruned.

    Raises:
        ConfigError: δ is outside [0, 1].
    """
    value = fraction(delta, "delta")
    if not 0 <= value <= 1:
        raise ConfigError(f"delta={delta} is outside [0, 1]: it is the share of the epochs that may be pruned")
    return floor(value * epochs)


def prune_count(prune_fraction: str, num_samples: int) -> int:
    """T = ⌊f·N + ½⌋: the samples that a fraction f of N prunes.

    Raises:
        ConfigError: f is outside [0, 1).
    """
    value = fraction(prune_fraction, "prune_fraction")
    if not 0 <= value < 1:
        raise ConfigError(f"prune_fraction={prune_fraction} is outside [0, 1): it is the share of all samples")
    return floor(value * num_samples + Fraction(1, 2))


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


def _is_decimal(text: str) -> bool:
    return len(text) <= 64 and _DECIMAL.fullmatch(text) is not None
