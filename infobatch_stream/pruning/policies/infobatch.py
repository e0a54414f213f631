"""`infobatch`: prune a random share of the samples below the mean score, and weigh up those that stay (paper Eq. 2–5).

`InfoBatch.classes` asks for the class of Eq. 4; the comparison itself is the one line of `pruned_class.beyond`. The
samples that stay are drawn by `draw.draw_bernoulli`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from infobatch_stream.keywords import suggesting
from infobatch_stream.pruning.draw import CodesOf
from infobatch_stream.pruning.policies.base import KEPT, Classification, ClassRow, Position, ScoreView
from infobatch_stream.pruning.policies.pruned_class import (
    Cut,
    cut_at_threshold,
    is_odd_share,
    lowest,
    normal_threshold,
)
from infobatch_stream.pruning.policies.share import SharePolicy
from infobatch_stream.ratios import fraction, keep_lanes, prune_count

__all__ = ["InfoBatch"]


@suggesting
@dataclass(frozen=True, kw_only=True)
class InfoBatch(SharePolicy):
    """The paper's policy: P(pruned) = r below the threshold, 0 elsewhere; the kept ones below it get weight 1/(1−r).

    With `prune_fraction` the class is all samples below the threshold, as long as a quarter of it can stay, and else
    the lowest scores that leave a quarter.

    Args:
        prune_ratio: r in [0, 1), the share of the class that is pruned; 0.5 by default.
        prune_fraction: instead of it, f in [0, 1): exactly ⌊f·N + ½⌋ samples are pruned, as far as a quarter of the
            scored samples can stay.
        threshold: "mean" (the paper) or "quantile:q" with q in (0, 1].

    Settings of every policy: see `Policy`.

    Example:
        >>> InfoBatch(prune_ratio=0.5, delta="0.875").draw
        'bernoulli'
    """

    name: ClassVar[str] = "infobatch"

    threshold: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "threshold", normal_threshold(self.threshold))

    def classes(self, view: ScoreView, position: Position) -> Classification:
        """Class 0 "kept", class 1 "low" (or "high")."""
        cut = cut_at_threshold(view.score, self.threshold, self.condition)
        codes: CodesOf = cut.codes
        requested, cut_size = 0, None
        if self.prune_ratio:
            row = ClassRow(name=self.condition, keep_65536=keep_lanes(self.prune_ratio, share=position.share))
        else:
            requested = prune_count(self.prune_fraction, view.num_samples, share=position.share)
            codes, keep = self._class_to_prune(view, cut, requested)
            cut_size = cut.size
            row = ClassRow(name=self.condition, keep_count=keep)
        return Classification(
            codes=codes,
            rows=(KEPT, row),
            num_scored=cut.num_scored,
            threshold=cut.threshold,
            cut_class=1,
            cut_size=cut_size,
            prune_requested=requested,
        )

    def finds_odd(self, low_share: float | None) -> bool:
        """See the base class."""
        return is_odd_share(self.threshold, low_share)

    def advice(self) -> str | None:
        """See the base class."""
        if not self.prune_fraction or 4 * fraction(self.prune_fraction, "prune_fraction") * self.peak_share <= 3:
            return None
        return (
            f"prune_fraction={self.prune_fraction} asks for more than can be weighed up: a quarter of the scored "
            "samples stays, so that at most 0.75 of them are pruned"
        )

    def _class_to_prune(self, view: ScoreView, cut: Cut, requested: int) -> tuple[CodesOf, int]:
        """A class that can lose `requested` samples and keep a quarter, and how many of it stay."""
        if 4 * requested <= 3 * cut.size:
            return cut.codes, cut.size - requested
        wanted = -(-4 * requested // 3)
        if wanted > cut.num_scored:
            pruned = 3 * cut.num_scored // 4
            return lowest(view.score, cut.num_scored, self.condition), cut.num_scored - pruned
        return lowest(view.score, wanted, self.condition), wanted - requested
