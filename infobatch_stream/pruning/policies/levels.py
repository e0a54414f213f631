"""`levels`: several quantiles, each with a prune ratio of its own (the authors' variant for ImageNet)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.keywords import suggesting
from infobatch_stream.pruning.policies.base import KEPT, Classification, ClassRow, Policy, Position, ScoreView
from infobatch_stream.pruning.policies.pruned_class import beyond
from infobatch_stream.pruning.policies.settings import ParamValue
from infobatch_stream.pruning.ranking import Ranking
from infobatch_stream.pruning.threshold import quantile_rank
from infobatch_stream.ratios import Pairs, fraction, keep_lanes, pairs_of

__all__ = ["Levels"]

_MAX_LEVELS = 200


@suggesting
@dataclass(frozen=True, kw_only=True)
class Levels(Policy):
    """A sample belongs to the first level whose quantile exceeds its score; above the last it is kept.

    Args:
        levels: [(q, r), …], q ascending in (0, 1], r in [0, 1): the share r is pruned of the scores under the
            q-quantile (and not under the one before). The authors' setting for ImageNet is
            [(0.20, 0.75), (0.85, 0.5)]; also as text, "0.2:0.75,0.85:0.5".

    Settings of every policy: see `Policy`.

    Example:
        >>> Levels(levels=[(0.20, 0.75), (0.85, 0.5)]).levels
        '0.2:0.75,0.85:0.5'
    """

    name: ClassVar[str] = "levels"
    follows_schedule: ClassVar[bool] = True
    derived: ClassVar[tuple[str, ...]] = ("levels_keep_65536",)

    levels: Pairs = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.levels:
            raise ConfigError(
                f"levels={self.levels!r} is not 'quantile:ratio,…', such as '0.20:0.75,0.85:0.5' "
                "(in Python: [(0.20, 0.75), (0.85, 0.5)])"
            )
        pairs = pairs_of(self.levels)
        quantiles = [fraction(quantile, "levels quantile") for quantile, _ in pairs]
        if any(not 0 < quantile <= 1 for quantile in quantiles):
            raise ConfigError(f"levels={self.levels!r}: a quantile is outside (0, 1]")
        if any(a >= b for a, b in itertools.pairwise(quantiles)):
            raise ConfigError(f"levels={self.levels!r}: quantiles must ascend")
        if len(pairs) > _MAX_LEVELS:
            raise ConfigError(f"levels has {len(pairs)} entries; {_MAX_LEVELS} are allowed")
        self._keep_65536(self.peak_share)

    @property
    def pruned_classes(self) -> int:
        """See the base class: one for each level."""
        return len(pairs_of(self.levels))

    def classes(self, view: ScoreView, position: Position) -> Classification:
        """Class 0 "kept", class i "level i"."""
        rows = [ClassRow(name=f"level {i}", keep_65536=k) for i, k in enumerate(self._keep_65536(position.share), 1)]
        ranking = Ranking(view.score)
        edges: list[float] = []
        if ranking.num_scored:
            pick = ranking.smallest if self.condition == "low" else ranking.largest
            quantiles = [fraction(quantile, "levels quantile") for quantile, _ in pairs_of(self.levels)]
            edges = [pick(quantile_rank(quantile, ranking.num_scored)) for quantile in quantiles]

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
        return {"levels_keep_65536": ",".join(str(k) for k in self._keep_65536(self.peak_share))}

    def _keep_65536(self, share: Fraction) -> list[int]:
        return [keep_lanes(ratio, "levels prune ratio", share=share) for _, ratio in pairs_of(self.levels)]
