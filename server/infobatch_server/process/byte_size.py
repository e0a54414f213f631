"""Sizes in bytes as users write them on the command line: 1000000, 512MiB, 1.5GB."""

from __future__ import annotations

import re
from fractions import Fraction

from infobatch_stream.errors import ConfigError

__all__ = ["parse_bytes"]

_PREFIXES = "kmgtp"
_SIZE = re.compile(rf"([0-9][0-9_]*(?:\.[0-9]+)?)\s*(?:([{_PREFIXES}])(i?))?b?", re.IGNORECASE | re.ASCII)


def parse_bytes(text: str, option: str, *, at_least: int = 0) -> int:
    """The bytes that a text means; a fraction of a byte is cut off.

    Args:
        text: a number, and a unit if it isn't bytes: kB, MB, GB, TB and PB are powers of 1000, KiB, MiB, GiB, TiB and
            PiB powers of 1024. The case of letters and the B don't matter.
        option: the option, for messages.
        at_least: the smallest size that makes sense.

    Raises:
        ConfigError: the text is no such size, or the size is below `at_least`.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{option} must be a size in bytes, such as 2000000000, 2GB or 512MiB; got {text!r}")
    number, prefix, binary = match.groups()
    power = _PREFIXES.index(prefix.lower()) + 1 if prefix else 0
    num_bytes = int(Fraction(number) * (1024 if binary else 1000) ** power)
    if num_bytes < at_least:
        raise ConfigError(f"{option} must be at least {at_least:,} bytes; {text!r} is {num_bytes:,}")
    return num_bytes
