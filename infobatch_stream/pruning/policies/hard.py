"""`hard`: drop everything below the threshold, or a fixed number of the lowest. Biased, and says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from infobatch_stream.pruning.draw import Codes
from infobatch_stream.pruning.policies.base import (
    KEPT,
    Classification,
    ClassRow,
    ParamValue,
    Policy,
    Position,
    ScoreView,
)
from infobatch_stream.pruning.policies.pruned_class import (
    check_threshold,
    cut_at_threshold,
    is_odd_share,
    lowest,
)
from infobatch_stream.ratios import decimal_string, prune_count

__all__ = ["Hard"]


@dataclass(frozen=True, kw_only=True)
class Hard(Policy):
    """Nothing of the class is kept, so no weight can make up for it.

    Args:
        prune_fraction: f in [0, 1) as a decimal string: drop the ⌊f·N + ½⌋ lowest scores (as many as are scored, and
            never all) instead of all below the threshold.
        threshold: "mean" or "quantile:q".
    """

    name: ClassVar[str] = "hard"
    drops_without_weight: ClassVar[bool] = True

    prune_fraction: str = ""
    threshold: str = "mean"

    def __post_init__(self) -> None:
        if self.prune_fraction:
            object.__setattr__(self, "prune_fraction", decimal_string(self.prune_fraction, "prune_fraction"))
            prune_count(self.prune_fraction, 1)
        check_threshold(self.threshold)
        super().__post_init__()

    def classes(self, view: ScoreView, position: Position) -> Classification:
        """Class 0 "kept", class 1 "low" (or "high"), of which nothing is kept."""
        cut = cut_at_threshold(view.score, self.threshold, self.condition)
        codes: Codes = cut.codes
        requested, cut_size = 0, None
        if self.prune_fraction:
            requested, cut_size = prune_count(self.prune_fraction, view.num_samples), cut.size
            codes = lowest(view.score, min(requested, cut.num_scored, view.num_samples - 1), self.condition)
        return Classification(
            codes=codes,
            rows=(KEPT, ClassRow(name=self.condition, keep_65536=0)),
            num_scored=cut.num_scored,
            threshold=cut.threshold,
            cut_class=1,
            cut_size=cut_size,
            prune_requested=requested,
        )

    def derived_params(self, num_samples: int) -> dict[str, ParamValue]:
        """`prune_count`, where a fraction was given."""
        return {"prune_count": prune_count(self.prune_fraction, num_samples)} if self.prune_fraction else {}

    def finds_odd(self, low_share: float | None) -> bool:
        """See the base class."""
        return is_odd_share(self.threshold, low_share)

    def _settings(self) -> dict[str, ParamValue]:
        share: dict[str, ParamValue] = {"prune_fraction": self.prune_fraction} if self.prune_fraction else {}
        return {**share, "threshold": self.threshold}
