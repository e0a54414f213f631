"""`full`: nothing is pruned. The baseline that the others are compared with, in the same order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from infobatch_stream.keywords import suggesting
from infobatch_stream.pruning.policies.base import KEPT, Classification, Policy, Position, ScoreView, one_class

__all__ = ["Full"]


@suggesting
@dataclass(frozen=True, kw_only=True)
class Full(Policy):
    """Every sample in every epoch, with weight 1."""

    name: ClassVar[str] = "full"
    needs_scores: ClassVar[bool] = False
    never_prunes: ClassVar[bool] = True
    follows_schedule: ClassVar[bool] = True

    def classes(self, view: ScoreView, position: Position) -> Classification:
        """One class, "kept"."""
        return Classification(codes=one_class, rows=(KEPT,))
