"""How much a policy prunes: a share of its class (`prune_ratio`), or a fixed share of all samples."""

from __future__ import annotations

from dataclasses import dataclass

from infobatch_stream.errors import ConfigError
from infobatch_stream.pruning.policies.base import ParamValue, Policy
from infobatch_stream.ratios import decimal_string, keep_lanes, prune_count

__all__ = ["SharePolicy"]


@dataclass(frozen=True, kw_only=True)
class SharePolicy(Policy):
    """A policy that prunes a share, given in one of two ways.

    Args:
        prune_ratio: r in [0, 1) as a decimal string, a share of the class; 0.5 (the paper's) where neither is given.
        prune_fraction: f in [0, 1) as a decimal string: exactly ⌊f·N + ½⌋ samples in every pruned epoch instead.
    """

    prune_ratio: str = ""
    prune_fraction: str = ""

    def __post_init__(self) -> None:
        if self.prune_ratio and self.prune_fraction:
            raise ConfigError(
                f"prune_ratio={self.prune_ratio} and prune_fraction={self.prune_fraction} exclude each other: "
                "the one is a share of the policy's class, the other of all samples"
            )
        if self.prune_fraction:
            if self.draw == "bernoulli":
                raise ConfigError("prune_fraction fixes how many are pruned: leave draw unset, or draw='exact'")
            object.__setattr__(self, "prune_fraction", decimal_string(self.prune_fraction, "prune_fraction"))
            prune_count(self.prune_fraction, 1)
        else:
            object.__setattr__(self, "prune_ratio", decimal_string(self.prune_ratio or "0.5", "prune_ratio"))
            keep_lanes(self.prune_ratio)
        super().__post_init__()

    def derived_params(self, num_samples: int) -> dict[str, ParamValue]:
        """`keep_65536` or `prune_count`."""
        if self.prune_ratio:
            return {"keep_65536": keep_lanes(self.prune_ratio)}
        return {"prune_count": prune_count(self.prune_fraction, num_samples)}

    def _settings(self) -> dict[str, ParamValue]:
        return {"prune_ratio": self.prune_ratio} if self.prune_ratio else {"prune_fraction": self.prune_fraction}

    def _default_draw(self) -> str:
        return "exact" if self.prune_fraction else "bernoulli"
