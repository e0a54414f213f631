"""`infobatch`: prune a random share of the samples below the mean, and weigh up what stays (paper Eq. 2–5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from infobatch_stream.pruning.draw import Codes
from infobatch_stream.pruning.policies.base import KEPT, Classification, ClassRow, ParamValue, Position, ScoreView
from infobatch_stream.pruning.policies.pruned_class import (
    Cut,
    check_threshold,
    cut_at_threshold,
    is_odd_share,
    lowest,
)
from infobatch_stream.pruning.policies.share import SharePolicy
from infobatch_stream.ratios import keep_lanes, prune_count

__all__ = ["InfoBatch"]


@dataclass(frozen=True, kw_only=True)
class InfoBatch(SharePolicy):
    """Eq. 4: P(pruned) = r where the score is below the threshold, 0 elsewhere; kept ones of them weigh 1/(1−r).

    With `prune_fraction` the class is what is below the threshold while a quarter of it can stay, and else as many
    of the lowest scores as that takes.

    Args:
        threshold: "mean" (the paper) or "quantile:q".
    """

    name: ClassVar[str] = "infobatch"

    threshold: str = "mean"

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        super().__post_init__()

    def classes(self, view: ScoreView, position: Position) -> Classification:
        """Class 0 "kept", class 1 "low" (or "high")."""
        cut = cut_at_threshold(view.score, self.threshold, self.condition)
        codes: Codes = cut.codes
        requested, cut_size = 0, None
        if self.prune_ratio:
            row = ClassRow(name=self.condition, keep_65536=keep_lanes(self.prune_ratio))
        else:
            requested = prune_count(self.prune_fraction, view.num_samples)
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

    def _class_to_prune(self, view: ScoreView, cut: Cut, requested: int) -> tuple[Codes, int]:
        """A class that can lose `requested` samples and keep a quarter, and how many of it stay."""
        if 4 * requested <= 3 * cut.size:
            return cut.codes, cut.size - requested
        wanted = -(-4 * requested // 3)
        if wanted > cut.num_scored:
            pruned = 3 * cut.num_scored // 4
            return lowest(view.score, cut.num_scored, self.condition), cut.num_scored - pruned
        return lowest(view.score, wanted, self.condition), wanted - requested

    def finds_odd(self, low_share: float | None) -> bool:
        """See the base class."""
        return is_odd_share(self.threshold, low_share)

    def _settings(self) -> dict[str, ParamValue]:
        return {**super()._settings(), "threshold": self.threshold}
