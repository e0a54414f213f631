"""The schedule: how many epochs, and from which one on nothing is pruned (paper §2.3, annealing)."""

from __future__ import annotations

from dataclasses import dataclass

from infobatch_stream.errors import ConfigError
from infobatch_stream.pruning.policies import Policy, Position
from infobatch_stream.ratios import anneal_epoch, decimal_string
from infobatch_stream.scores.table import MAX_EPOCHS

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
        first = 1 if policy.uses_scores else 0  # epoch 0 makes the scores
        prunes = self.anneal_epoch > first
        if prunes and not (self.anneal and self.anneal_epoch >= self.epochs):
            return None
        needed = first + 1 + self.anneal
        if self.epochs < needed:
            return (
                f"policy {policy.name!r} can't prune an epoch{' and leave the last one unpruned' * self.anneal} in "
                f"epochs={self.epochs}{': epoch 0 makes the scores' * first}; train for at least {needed} epochs, or "
                "with policy='full'"
            )
        if not prunes:
            return (
                f"policy {policy.name!r} never prunes with epochs={self.epochs} and delta={self.delta}: "
                f"⌊delta·epochs⌋ = {self.anneal_epoch}; delta={_reaching(first + 1, self.epochs)} prunes one epoch"
            )
        return (
            f"policy {policy.name!r} never anneals with epochs={self.epochs} and delta={self.delta}: the paper "
            f"trains the last epochs unpruned; delta={_reaching(self.epochs - 1, self.epochs)} leaves one "
            "(anneal=False says that you mean it)"
        )


def _reaching(epoch: int, epochs: int) -> str:
    """A decimal δ with ⌊δ·epochs⌋ = epoch: epoch/epochs, rounded up in as many digits as that takes."""
    digits = len(str(epochs))
    number = str(-(-epoch * 10**digits // epochs))
    return f"0.{number.zfill(digits)}".rstrip("0")
