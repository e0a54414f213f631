"""`levels`: several quantiles, each with a prune ratio of its own (the authors' variant for ImageNet)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.pruning.policies.base import (
    KEPT,
    Classification,
    ClassRow,
    ParamValue,
    Policy,
    Position,
    ScoreView,
)
from infobatch_stream.pruning.policies.pruned_class import beyond
from infobatch_stream.pruning.ranking import Ranking
from infobatch_stream.pruning.threshold import quantile_rank
from infobatch_stream.ratios import fraction, keep_lanes

__all__ = ["Levels"]


@dataclass(frozen=True, kw_only=True)
class Levels(Policy):
    """A sample belongs to the first level whose quantile exceeds its score; above the last it is kept.

    Args:
        levels: "q:r,q:r,…", decimal strings, q ascending in (0, 1], r in [0, 1): of the scores under the q-quantile
            (and not under the one before) the share r is pruned. The authors' ImageNet setting is "0.20:0.75,0.85:0.5".
    """

    name: ClassVar[str] = "levels"

    levels: str = ""

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
        super().__post_init__()

    def classes(self, view: ScoreView, position: Position) -> Classification:
        """Class 0 "kept", class i "level i"."""
        pairs = self._pairs()
        rows = [ClassRow(name=f"level {i}", keep_65536=keep_lanes(ratio)) for i, (_, ratio) in enumerate(pairs, 1)]
        ranking = Ranking(view.score)
        edges: list[float] = []
        if ranking.num_scored:
            pick = ranking.smallest if self.condition == "low" else ranking.largest
            edges = [pick(quantile_rank(fraction(q, "levels quantile"), ranking.num_scored)) for q, _ in pairs]

        def codes(part: slice) -> npt.NDArray[np.uint8]:
            score = view.score[part]
            under = np.zeros(len(score), np.uint8)  # how many quantiles a score is under; they nest
            for edge in edges:
                under += beyond(score, np.float32(edge), self.condition)
            levels: npt.NDArray[np.uint8] = (np.uint8(len(edges) + 1) - under) * (under > 0)
            return levels

        return Classification(
            codes=codes,
            rows=(KEPT, *rows),
            num_scored=ranking.num_scored,
            threshold=edges[-1] if edges else None,
        )

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
        return {"levels": self.levels}
