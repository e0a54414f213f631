"""Exact numbers from decimal strings, which a float might round differently on two machines.

A ratio that decides bits is kept as the string the user wrote; the integers made from it are exact.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from decimal import Context, Decimal
from fractions import Fraction
from math import floor
from typing import SupportsIndex

from infobatch_stream.errors import ConfigError

__all__ = [
    "LANES",
    "Number",
    "Pairs",
    "anneal_epoch",
    "decimal_pairs",
    "decimal_string",
    "fraction",
    "keep_lanes",
    "pairs_of",
    "prune_count",
    "round_half_up",
    "whole_number",
]

Number = str | float | int | Decimal
"""A number that decides bits, as a user may write it; stored as its decimal string."""

Pairs = str | Sequence[tuple[Number, Number]]
"""Pairs of such numbers, as a user may write them; stored as text, "0.2:0.75,0.85:0.5"."""

# Two digits of exponent: a longer one would be a number of its own weight in memory.
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)

LANES = 65536
"""Keep probabilities are k/65536: a sample has one 16-bit lane of the draw."""


def decimal_string(value: Number, name: str) -> str:
    """The one decimal string of `value`, a float taken by its shortest repr: 0.5, "0.50" and "5e-1" give "0.5".

    Raises:
        ConfigError: `value` is not a finite decimal number.
    """
    text = str(value).strip()  # numpy's numbers by their own shortest form, not by a float64's
    if isinstance(value, bool) or not _is_decimal(text):
        raise ConfigError(f"{name}={value!r} is not a finite decimal number such as 0.5 or '0.875'")
    exact = Decimal(text).normalize(Context(prec=200))
    return f"{exact:f}" if exact else "0"


def decimal_pairs(value: Pairs, name: str) -> str:
    """The one text of pairs of numbers: [(0.20, 0.75), (0.85, 0.5)] and "0.20:0.75,0.85:0.5" give "0.2:0.75,0.85:0.5".

    Raises:
        ConfigError: `value` is neither.
    """
    try:
        parts = [part.split(":") for part in value.split(",")] if isinstance(value, str) else list(value)
        pairs = [(first, second) for first, second in parts]
    except (TypeError, ValueError):
        pairs = []
    if not pairs:
        raise ConfigError(
            f"{name}={value!r} is not a list of pairs of numbers, such as [(0.20, 0.75), (0.85, 0.5)] or "
            "'0.20:0.75,0.85:0.5'"
        )
    return ",".join(f"{decimal_string(first, name)}:{decimal_string(second, name)}" for first, second in pairs)


def pairs_of(text: Pairs) -> list[tuple[str, str]]:
    """The pairs of decimal strings in the text that `decimal_pairs` gives."""
    assert isinstance(text, str)
    return [(first, second) for first, _, second in (part.partition(":") for part in text.split(","))]


def fraction(value: Number, name: str) -> Fraction:
    """The exact value of a decimal number.

    Raises:
        ConfigError: it is not a decimal number.
    """
    text = str(value)
    if not _is_decimal(text):
        raise ConfigError(f"{name}={text!r} is not a finite decimal number such as '0.875'")
    return Fraction(text)


def round_half_up(value: Fraction) -> int:
    """⌊value + ½⌋."""
    return floor(value + Fraction(1, 2))


def keep_lanes(prune_ratio: Number, name: str = "prune_ratio", *, share: Fraction = Fraction(1)) -> int:
    """k = ⌊65536·(1 − r·s) + ½⌋ for a prune ratio r: of 65,536 lanes, those that keep a sample.

    Args:
        prune_ratio: r.
        name: what messages call it.
        share: s, the epoch's share of the volume (`Position.share`).

    Raises:
        ConfigError: r·s is outside [0, 1), or so near to 1 that k is 0.
    """
    ratio = fraction(prune_ratio, name) * share
    if not 0 <= ratio < 1:
        raise ConfigError(f"{name}={prune_ratio} is outside [0, 1): it is the share of the class that is pruned")
    k = round_half_up(LANES * (1 - ratio))
    if k == 0:
        raise ConfigError(
            f"{name}={prune_ratio} keeps less than 1 sample in 131,072, which no weight can make up for; "
            "use policy='hard' to drop all of them"
        )
    return k


def anneal_epoch(delta: Number, epochs: int) -> int:
    """⌊δ·C⌋, exactly: the first epoch that is trained unpruned.

    Raises:
        ConfigError: δ is outside [0, 1].
    """
    value = fraction(delta, "delta")
    if not 0 <= value <= 1:
        raise ConfigError(f"delta={delta} is outside [0, 1]: it is the share of the epochs that may be pruned")
    return floor(value * epochs)


def prune_count(prune_fraction: Number, num_samples: int, *, share: Fraction = Fraction(1)) -> int:
    """T = ⌊f·s·N + ½⌋: the samples that a fraction f of N prunes in an epoch whose share of the volume is s.

    Raises:
        ConfigError: f·s is outside [0, 1).
    """
    value = fraction(prune_fraction, "prune_fraction") * share
    if not 0 <= value < 1:
        raise ConfigError(f"prune_fraction={prune_fraction} is outside [0, 1): it is the share of all samples")
    return round_half_up(value * num_samples)


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
