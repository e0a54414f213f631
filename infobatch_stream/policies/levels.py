"""`levels`: several quantiles, each with a prune ratio of its own (the authors' variant for ImageNet)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from infobatch_stream.errors import ConfigError
from infobatch_stream.policies.base import (
    KEPT,
    Classification,
    ClassRow,
    ParamValue,
    Policy,
    Position,
    ScoreView,
)
from infobatch_stream.policies.pruned_class import check_condition
from infobatch_stream.ratios import fraction, keep_lanes
from infobatch_stream.threshold import quantile_threshold

__all__ = ["Levels"]


@dataclass(frozen=True, kw_only=True)
class Levels(Policy):
    """A sample belongs to the first level whose quantile exceeds its score; above the last it is kept.

    Args:
        levels: "q:r,q:r,…", decimal strings, q ascending in (0, 1], r in [0, 1): of the scores under the q-quantile
            (and not under the one before) the share r is pruned. The authors' ImageNet setting is "0.20:0.75,0.85:0.5".
        condition: "low" counts quantiles from the lowest score, "high" from the highest.
    """

    name: ClassVar[str] = "levels"

    levels: str = ""
    condition: str = "low"

    def __post_init__(self) -> None:
        pairs = self._pairs()
        quantiles = [fraction(quantile, "levels quantile") for quantile, _ in pairs]
        if any(not 0 < quantile <= 1 for quantile in quantiles):
            raise ConfigError(f"levels={self.levels!r}: a quantile is outside (0, 1]")
        if any(a >= b for a, b in itertools.pairwise(quantiles)):
            raise ConfigError(f"levels={self.levels!r}: quantiles must ascend")
        if len(pairs) > 200:
            raise ConfigError(f"levels has {len(pairs)} entries; 200 are allowed")
        for _, ratio in pairs:
            keep_lanes(ratio, "levels prune ratio")
        check_condition(self.condition)
        super().__post_init__()

    def classes(self, view: ScoreView, position: Position) -> Classification:
        """Class 0 "kept", class i "level i"."""
        # From the highest score down is from the lowest up of what is negated.
        score = view.score if self.condition == "low" else -view.score
        codes = np.zeros(len(score), np.uint8)
        rows = [KEPT]
        top = None
        for number, (quantile, ratio) in reversed(list(enumerate(self._pairs(), start=1))):
            edge = quantile_threshold(score, fraction(quantile, "levels quantile"))
            if edge is not None:
                codes[score < np.float32(edge)] = number
                top = edge if top is None else top
            rows.insert(1, ClassRow(name=f"level {number}", keep_65536=keep_lanes(ratio)))
        threshold = top if top is None or self.condition == "low" else -top
        return Classification(codes=codes, rows=tuple(rows), threshold=threshold)

    def derived_params(self, num_samples: int) -> dict[str, ParamValue]:
        """`levels_keep_65536`: k by level."""
        return {"levels_keep_65536": ",".join(str(keep_lanes(ratio)) for _, ratio in self._pairs())}

    def _pairs(self) -> list[tuple[str, str]]:
        parts = [part.split(":") for part in self.levels.split(",")]
        if any(len(part) != 2 for part in parts):
            raise ConfigError(
                f"levels={self.levels!r} is not 'quantile:ratio,…', such as '0.20:0.75,0.85:0.5' "
                "(in Python: [(0.20, 0.75), (0.85, 0.5)])"
            )
        return [(quantile, ratio) for quantile, ratio in parts]

    def _settings(self) -> dict[str, ParamValue]:
        return {"levels": self.levels, "condition": self.condition}
