"""The scores of one push as arrays, with its sender."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["WINDOW", "ScoreBatch"]

WINDOW = 32
"""A client may send so many pushes ahead of its oldest one that wasn't answered, itself included: so many are known."""


@dataclass(frozen=True, eq=False)
class ScoreBatch:
    """The scores of one push, and its sender.

    Args:
        generation: the pusher's generation.
        client_id: the pusher's id, 16 bytes.
        sequence: the pusher's sequence number, from 1.
        epoch: the epoch in which the samples were trained.
        indices: int64 (n,), each in [0, N).
        scores: float32 (n,).
        columns: the declared columns by name, (n,) each.
        dropped: int64 (m,), samples that the pipeline dropped, each in [0, N) and in the run's mask; None: none.
    """

    generation: int
    client_id: bytes
    sequence: int
    epoch: int
    indices: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    dropped: npt.NDArray[np.int64] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        dropped = 0 if self.dropped is None else self.dropped.nbytes
        columns = sum(values.nbytes for values in self.columns.values())
        return self.indices.nbytes + self.scores.nbytes + columns + dropped
