"""What happens to what can't be read, and to a sample on which a stage raises: it is an error, or it is left out."""

from __future__ import annotations

from dataclasses import dataclass

from infobatch_stream.errors import ConfigError
from infobatch_stream.keywords import suggesting
from infobatch_stream.ratios import whole_number

__all__ = ["SkipErrors", "error_rule"]


@suggesting
@dataclass(frozen=True, kw_only=True)
class SkipErrors:
    """Samples that can't be read, or on which a stage raises, are left out and counted; and so are bad shards.

    A shard that is missing, truncated, damaged or empty, or has a key twice, is left out when the dataset is made. What
    it held is then no part of the data set, and doesn't count as skipped samples.

    Args:
        max_errors: samples that may be skipped per worker and epoch; one more is an error.
        max_shards: shards that may be left out; one more is an error. None: any number, as long as one is good.

    Raises:
        ConfigError: a number that isn't whole, or negative.

    Example:
        >>> SkipErrors(max_errors=10).max_errors
        10
    """

    max_errors: int = 1000
    max_shards: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_errors", whole_number(self.max_errors, "max_errors"))
        if self.max_shards is not None:
            object.__setattr__(self, "max_shards", whole_number(self.max_shards, "max_shards"))


def error_rule(on_error: str | SkipErrors) -> SkipErrors | None:
    """The dataset's argument; None for "raise".

    Raises:
        ConfigError: neither "raise", "skip" nor a `SkipErrors`.
    """
    if isinstance(on_error, SkipErrors):
        return on_error
    if on_error == "skip":
        return SkipErrors()
    if on_error == "raise":
        return None
    raise ConfigError(f"on_error={on_error!r} is neither 'raise' nor 'skip'; SkipErrors(max_errors=…) sets a limit")
