"""Counts of the rows that one rank received in an epoch, by what happened to them."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NO_ROWS", "RowCounts"]


class RowCounts(NamedTuple):
    """Rows of a batch, or of all batches of an epoch on one rank.

    Args:
        real: of weight above 0.
        filled: repeats of weight 0, which fill up a batch.
        dropped: samples that a stage of the pipeline dropped.
        unreadable: samples that could not be read, or on which a stage raised, and that `on_error="skip"` left out.
        non_finite: scores that the server rejected as NaN or infinite; filled in when the epoch's end is sent.
    """

    real: int = 0
    filled: int = 0
    dropped: int = 0
    unreadable: int = 0
    non_finite: int = 0

    def __add__(self, other: object) -> RowCounts:
        """The sums, field by field."""
        assert isinstance(other, RowCounts)
        return RowCounts(*(own + more for own, more in zip(self, other, strict=True)))


NO_ROWS = RowCounts()
