"""How much a policy prunes: a share of its class (`prune_ratio`), or a fixed share of all samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from infobatch_stream.errors import ConfigError
from infobatch_stream.pruning.policies.base import Policy
from infobatch_stream.pruning.policies.settings import ParamValue
from infobatch_stream.ratios import Number, fraction, keep_lanes, prune_count

__all__ = ["SharePolicy"]


@dataclass(frozen=True, kw_only=True)
class SharePolicy(Policy):
    """A policy that prunes a share, given in one of two ways.

    Args:
        prune_ratio: r in [0, 1), a share of the class; 0.5 (the paper's) by default, and 1 with a prune schedule,
            whose shares are the prune ratios then.
        prune_fraction: instead of it, f in [0, 1): exactly ⌊f·N + ½⌋ samples in each pruned epoch.
    """

    follows_schedule: ClassVar[bool] = True
    derived: ClassVar[tuple[str, ...]] = ("keep_65536", "prune_count")

    prune_ratio: Number = ""
    prune_fraction: Number = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prune_ratio and self.prune_fraction:
            raise ConfigError(
                f"prune_ratio={self.prune_ratio} and prune_fraction={self.prune_fraction} exclude each other: "
                "the one is a share of the policy's class, the other of all samples"
            )
        if self.prune_fraction and self.draw == "bernoulli":
            raise ConfigError("prune_fraction fixes how many are pruned: leave draw unset, or draw='exact'")
        if not self.prune_ratio and not self.prune_fraction:
            object.__setattr__(self, "prune_ratio", "1" if self.prune_schedule else "0.5")
        self._check_peak()

    def derived_params(self, num_samples: int) -> dict[str, ParamValue]:
        """`keep_65536` or `prune_count`."""
        if self.prune_ratio:
            return {"keep_65536": keep_lanes(self.prune_ratio, share=self.peak_share)}
        return {"prune_count": prune_count(self.prune_fraction, num_samples, share=self.peak_share)}

    def _check_peak(self) -> None:
        """Refuses to prune all of a class, for which no weight makes up, in the epoch that prunes most."""
        setting = "prune_ratio" if self.prune_ratio else "prune_fraction"
        value = getattr(self, setting)
        if self.prune_schedule and fraction(value, setting) * self.peak_share >= 1:
            raise ConfigError(
                f"prune_schedule={self.prune_schedule} with {setting}={value} prunes everything at its peak "
                f"({value} × {float(self.peak_share):g}): no weight makes up for that, prune less than 1"
            )
        if self.prune_ratio:
            keep_lanes(self.prune_ratio, share=self.peak_share)
        else:
            prune_count(self.prune_fraction, 1, share=self.peak_share)

    def _default_draw(self) -> str:
        return "exact" if self.prune_fraction else "bernoulli"
