"""A policy of another distribution, as its author would write it: nothing here knows more than the public names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from infobatch_stream.pruning.policies import (
    KEPT,
    Classification,
    ClassRow,
    ColumnSpec,
    Number,
    Policy,
    Position,
    ScoreView,
    keep_lanes,
)


@dataclass(frozen=True, kw_only=True)
class Drift(Policy):
    """Prunes a share of the samples that are below their own average and fell since the record before.

    Args:
        ratio: the share that is pruned.
        margin: by how much a score must have fallen.
        patience: epochs in which a sample must have been scored.
        label: the class's name.
        limits: scores outside [limits[0], limits[1]] are kept.
        confidence: the average is that of a column that the client pushes, not that of the score.
    """

    name: ClassVar[str] = "drift"
    follows_schedule: ClassVar[bool] = True

    ratio: Number = "0.5"
    margin: float = 0.0
    patience: int = 2
    label: str = "drifting"
    limits: tuple[float, ...] = (0.0, 100.0)
    confidence: bool = False

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:  # type: ignore[override]
        source = "pushed" if self.confidence else "score"
        return (
            ColumnSpec(name="average", dtype="float64", fold="ema", ema_weight="0.25", source=source),
            ColumnSpec(name="before", fold="previous", source="score"),
        )

    def classes(self, view: ScoreView, position: Position) -> Classification:
        average, before = view.columns["average"], view.columns["before"]

        def codes(part: slice) -> npt.NDArray[Any]:
            score = view.score[part]
            members = (score < average[part]) & (before[part] - score > np.float32(self.margin))
            members &= view.visits[part] >= self.patience
            members &= (score >= self.limits[0]) & (score <= self.limits[1])
            return members.view(np.uint8)

        row = ClassRow(name=self.label, keep_65536=keep_lanes(self.ratio, share=position.share))
        return Classification(codes=codes, rows=(KEPT, row))
