"""The schedule: how many epochs, and from which one on nothing is pruned (paper §2.3, annealing)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from infobatch_stream.errors import ConfigError
from infobatch_stream.policies import Policy, Position
from infobatch_stream.ratios import anneal_epoch, decimal_string
from infobatch_stream.score_table import MAX_EPOCHS

__all__ = ["Schedule"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """C epochs, unpruned from ⌊δ·C⌋ on.

    Args:
        epochs: C in [1, 65534].
        delta: δ in [0, 1] as a decimal string; the paper's 0.875.
        anneal: off prunes to the end, whatever δ.
    """

    epochs: int
    delta: str = "0.875"
    anneal: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.epochs <= MAX_EPOCHS:
            raise ConfigError(f"epochs={self.epochs} is outside [1, {MAX_EPOCHS}]")
        object.__setattr__(self, "delta", decimal_string(self.delta, "delta"))
        anneal_epoch(self.delta, self.epochs)

    @property
    def anneal_epoch(self) -> int:
        """The first unpruned epoch, ⌊δ·C⌋; C where the policy doesn't anneal."""
        return anneal_epoch(self.delta, self.epochs) if self.anneal else self.epochs

    def position(self, epoch: int) -> Position:
        """Where `epoch` lies in the schedule."""
        return Position(epoch=epoch, epochs=self.epochs, anneal_epoch=self.anneal_epoch)

    def advice(self, policy: Policy) -> str | None:
        """What a user should hear of a schedule under which the policy never prunes, or never anneals."""
        if policy.name == "full":
            return None
        first = 1 if policy.uses_scores else 0
        if self.anneal_epoch <= first:
            if self.epochs <= first + 1:
                return (
                    f"policy {policy.name!r} never prunes in epochs={self.epochs}: epoch 0 makes the scores and the "
                    "last epoch is unpruned; train for at least 3 epochs, or with policy='full'"
                )
            least = Fraction(first + 1, self.epochs)
            return (
                f"policy {policy.name!r} never prunes with epochs={self.epochs} and delta={self.delta}: "
                f"⌊delta·epochs⌋ = {self.anneal_epoch}; delta={_up(least)} is the least that prunes an epoch"
            )
        if self.anneal and self.anneal_epoch >= self.epochs:
            most = Fraction(self.epochs - 1, self.epochs)
            return (
                f"policy {policy.name!r} never anneals with epochs={self.epochs} and delta={self.delta}: the paper "
                f"trains the last epochs unpruned; delta={_up(most)} leaves one (anneal=False says that you mean it)"
            )
        return None


def _up(value: Fraction) -> str:
    """`value` to three decimals, rounded up, so that ⌊δ·C⌋ is not one less."""
    return f"{ceil(value * 1000) / 1000:g}"
