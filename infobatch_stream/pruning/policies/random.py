"""`random`: prune a random share of all samples, whatever their scores. The control of every pruning experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from infobatch_stream.errors import ConfigError
from infobatch_stream.keywords import suggesting
from infobatch_stream.pruning.policies.base import Classification, ClassRow, Position, ScoreView, one_class
from infobatch_stream.pruning.policies.share import SharePolicy
from infobatch_stream.ratios import keep_lanes, prune_count

__all__ = ["Random"]


@suggesting
@dataclass(frozen=True, kw_only=True)
class Random(SharePolicy):
    """A uniform keep probability, from epoch 0 on: it uses no score.

    Args:
        prune_ratio: r in [0, 1), the share of all samples that is pruned on average; 0.5 by default.
        prune_fraction: instead of it, f in [0, 1): exactly ⌊f·N + ½⌋ samples are pruned.

    Settings of every policy: see `Policy`.

    Example:
        >>> Random(prune_ratio=0.3).prune_ratio
        '0.3'
    """

    name: ClassVar[str] = "random"
    needs_scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_group and self.draw == "bernoulli":
            raise ConfigError(
                "policy 'random' draws each sample by itself, with the same probability in every group: leave out "
                "per_group=True, or fix each group's share by draw='exact' or prune_fraction=…"
            )

    def classes(self, view: ScoreView, position: Position) -> Classification:
        """One class, "drawn"."""
        if self.prune_ratio:
            row = ClassRow(name="drawn", keep_65536=keep_lanes(self.prune_ratio, share=position.share))
            return Classification(codes=one_class, rows=(row,))
        requested = prune_count(self.prune_fraction, view.num_samples, share=position.share)
        row = ClassRow(name="drawn", keep_count=max(1, view.num_samples - requested))
        return Classification(codes=one_class, rows=(row,), prune_requested=requested)
