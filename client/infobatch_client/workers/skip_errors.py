"""What happens to a sample that can't be read, or on which a stage raises: it is an error, or it is skipped."""

from __future__ import annotations

from dataclasses import dataclass

from infobatch_stream.errors import ConfigError
from infobatch_stream.ratios import whole_number

__all__ = ["SkipErrors", "error_rule"]


@dataclass(frozen=True, kw_only=True)
class SkipErrors:
    """Samples that can't be read, or on which a stage raises, are left out and counted.

    Args:
        max_errors: samples that may be skipped per worker and epoch; one more is an error.

    Raises:
        ConfigError: `max_errors` is no whole number, or negative.

    Example:
        >>> SkipErrors(max_errors=10).max_errors
        10
    """

    max_errors: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_errors", whole_number(self.max_errors, "max_errors"))


def error_rule(on_error: str | SkipErrors) -> tuple[str, int]:
    """("raise" or "skip", samples that may be skipped) of the dataset's argument.

    Raises:
        ConfigError: neither "raise", "skip" nor a `SkipErrors`.
    """
    if on_error == "raise":
        return "raise", 0
    if on_error == "skip":
        on_error = SkipErrors()
    if not isinstance(on_error, SkipErrors):
        raise ConfigError(f"on_error={on_error!r} is neither 'raise' nor 'skip'; SkipErrors(max_errors=…) sets a limit")
    return "skip", on_error.max_errors
