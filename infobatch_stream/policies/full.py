"""`full`: nothing is pruned. The baseline that the others are compared with, in the same order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from infobatch_stream.policies.base import KEPT, Classification, ParamValue, Policy, Position, ScoreView

__all__ = ["Full"]


@dataclass(frozen=True, kw_only=True)
class Full(Policy):
    """Every sample in every epoch, with weight 1."""

    name: ClassVar[str] = "full"
    uses_scores: ClassVar[bool] = False

    def classes(self, view: ScoreView, position: Position) -> Classification:
        """One class, "kept"."""
        return Classification(codes=np.zeros(len(view.score), np.uint8), rows=(KEPT,))

    def _settings(self) -> dict[str, ParamValue]:
        return {}
