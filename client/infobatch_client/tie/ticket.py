"""A batch's ticket: the tie of its rows, by which losses find their samples."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from infobatch_stream.copies import GivesCopies
from infobatch_stream.errors import LossError

__all__ = ["Ticket", "checked_ticket"]


@dataclass(frozen=True, eq=False)
class Ticket(GivesCopies):
    """The tie of one batch's rows, which `update` needs; its length is their number. Each look at an array is a copy.

    Args:
        epoch: of the pass that returned it.
        step: its number in this pass.
        index: int64 (B,), −1 in rows that fill.
        weight: float32 (B,), 0 in rows that fill.
        pass_id: the pass that returned it; None in a plain loop, which checks batches by their samples.
        divisor: Σ wᵢ·lᵢ over its rows is divided by it: B, or with compact=True the `batch_size` of which these are the
            real rows. By default the number of rows.
    """

    epoch: int
    step: int
    index: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]
    pass_id: object = None
    divisor: float = 0.0

    def __post_init__(self) -> None:
        if not self.divisor:
            object.__setattr__(self, "divisor", float(len(self)))

    def __len__(self) -> int:
        return len(vars(self)["index"])

    def part(self, rows: slice | None) -> Ticket:
        """The tie of some of its rows; all of them for None. The divisor of n of its b rows is n/b of this one's.

        Raises:
            LossError: `rows` is no slice of at least one row of this batch, in steps of one.
        """
        if rows is None:
            return self
        checked = _checked_rows(rows, len(self))
        index, weight = self.index[checked], self.weight[checked]
        return replace(self, index=index, weight=weight, divisor=len(index) * self.divisor / len(self))


def checked_ticket(batch: object) -> Ticket:
    """`batch`, if it is a ticket; otherwise raises LossError."""
    if not isinstance(batch, Ticket):
        raise LossError(f"batch={batch!r} is no ticket; loader.ticketed() yields them")
    return batch


def _checked_rows(rows: object, size: int) -> slice:
    """`rows` with both ends as plain numbers."""
    if not isinstance(rows, slice):
        raise LossError(f"rows={rows!r} is a {type(rows).__name__}; name a micro-batch by a slice, as slice(0, 32)")
    ends = [0 if rows.start is None else rows.start, size if rows.stop is None else rows.stop]
    if any(isinstance(end, bool) or not hasattr(end, "__index__") for end in ends):
        raise LossError(f"rows={rows!r} must have whole numbers as its ends")
    if rows.step not in (None, 1):
        raise LossError(f"rows={rows!r} has a step; a micro-batch is rows that follow each other")
    first, end = map(operator.index, ends)
    if not 0 <= first < end <= size:
        raise LossError(f"rows={rows!r} is empty or outside the batch, which has rows 0 to {size - 1}")
    return slice(first, end)
