"""`hard`: drop all samples below the threshold, or a fixed number of the lowest. Biased, and says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from infobatch_stream.keywords import suggesting
from infobatch_stream.pruning.draw import CodesOf
from infobatch_stream.pruning.policies.base import KEPT, Classification, ClassRow, Policy, Position, ScoreView
from infobatch_stream.pruning.policies.pruned_class import cut_at_threshold, is_odd_share, lowest, normal_threshold
from infobatch_stream.pruning.policies.settings import ParamValue
from infobatch_stream.ratios import Number, prune_count, round_half_up

__all__ = ["Hard"]


@suggesting
@dataclass(frozen=True, kw_only=True)
class Hard(Policy):
    """Nothing of the class is kept, so no weight can make up for it.

    Args:
        prune_fraction: f in [0, 1): drop the ⌊f·N + ½⌋ lowest scores (as many as are scored, and never all samples)
            instead of all below the threshold.
        threshold: "mean" or "quantile:q" with q in (0, 1].

    Settings of every policy: see `Policy`. With a prune schedule and a threshold, the ⌊s·n + ½⌋ lowest of the n
    samples below the threshold are dropped in an epoch of share s.
    """

    name: ClassVar[str] = "hard"
    drops_without_weight: ClassVar[bool] = True
    follows_schedule: ClassVar[bool] = True
    derived: ClassVar[tuple[str, ...]] = ("prune_count",)

    prune_fraction: Number = ""
    threshold: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prune_fraction:
            prune_count(self.prune_fraction, 1)
        object.__setattr__(self, "threshold", normal_threshold(self.threshold))

    def classes(self, view: ScoreView, position: Position) -> Classification:
        """Class 0 "kept", class 1 "low" (or "high"), of which nothing is kept."""
        cut = cut_at_threshold(view.score, self.threshold, self.condition)
        codes: CodesOf = cut.codes
        requested, cut_size = 0, None
        if self.prune_fraction or self.prune_schedule:
            if self.prune_fraction:
                requested = prune_count(self.prune_fraction, view.num_samples, share=position.share)
            else:
                requested = round_half_up(position.share * cut.size)
            cut_size = cut.size
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
        """`prune_count`, with a fraction."""
        if not self.prune_fraction:
            return {}
        return {"prune_count": prune_count(self.prune_fraction, num_samples, share=self.peak_share)}

    def finds_odd(self, low_share: float | None) -> bool:
        """See the base class."""
        return is_odd_share(self.threshold, low_share)
