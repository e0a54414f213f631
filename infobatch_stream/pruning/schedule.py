"""The schedule: in which epochs a policy prunes, and how much (paper §2.3: annealing)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor

from infobatch_stream.errors import ConfigError
from infobatch_stream.pruning.policies.base import Policy, Position
from infobatch_stream.pruning.prune_schedule import PruneSchedule, prune_schedule
from infobatch_stream.ratios import anneal_epoch
from infobatch_stream.scores.table import MAX_EPOCHS

__all__ = ["Schedule"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """C epochs under a policy: unpruned from ⌊δ·C⌋ on, if it anneals, and where its prune schedule is 0.

    Args:
        epochs: C in [1, 65534].
        policy: has δ (`delta`), `anneal` and `prune_schedule`.

    Example:
        >>> from infobatch_stream.pruning.policies import InfoBatch
        >>> Schedule(epochs=100, policy=InfoBatch(delta="0.29")).anneal_epoch
        29
    """

    epochs: int
    policy: Policy

    def __post_init__(self) -> None:
        if not 1 <= self.epochs <= MAX_EPOCHS:
            raise ConfigError(f"epochs={self.epochs} is outside [1, {MAX_EPOCHS}]")

    @property
    def anneal_epoch(self) -> int:
        """The first epoch of the unpruned end, ⌊δ·C⌋; C if the policy doesn't anneal."""
        return anneal_epoch(self.policy.delta, self.epochs) if self.policy.anneal else self.epochs

    def position(self, epoch: int) -> Position:
        """The position of `epoch` in the schedule."""
        return Position(epoch=epoch, epochs=self.epochs, anneal_epoch=self.anneal_epoch, share=self._share(epoch))

    def is_unpruned(self, epoch: int) -> bool:
        """Whether `epoch` prunes nothing, whatever the scores."""
        return self.policy.never_prunes or epoch >= self.anneal_epoch or not self._share(epoch)

    def advice(self) -> str | None:
        """A warning for the user if the policy never prunes, or never anneals, under this schedule."""
        if self.policy.never_prunes:
            return None
        first = 1 if self.policy.needs_scores else 0  # epoch 0 makes the scores
        return self._advice_on_delta(first) or self._advice_on_shares(first)

    def _advice_on_delta(self, first: int) -> str | None:
        policy = self.policy
        prunes = self.anneal_epoch > first
        anneals = self.anneal_epoch < self.epochs or not self._share(self.epochs - 1)
        if prunes and (anneals or not policy.anneal):
            return None
        needed = first + 1 + policy.anneal
        if self.epochs < needed:
            return (
                f"policy {policy.name!r} can't prune an epoch{' and leave the last one unpruned' * policy.anneal} in "
                f"epochs={self.epochs}{': epoch 0 makes the scores' * first}; train for at least {needed} epochs, or "
                "with policy='full'"
            )
        if not prunes:
            return (
                f"policy {policy.name!r} never prunes with epochs={self.epochs} and delta={policy.delta}: "
                f"⌊delta·epochs⌋ = {self.anneal_epoch}; delta={_reaching(first + 1, self.epochs)} prunes one epoch"
            )
        return (
            f"policy {policy.name!r} never anneals with epochs={self.epochs} and delta={policy.delta}: the paper "
            f"trains the last epochs unpruned; delta={_reaching(self.epochs - 1, self.epochs)} leaves one "
            "(anneal=False says that this is intended)"
        )

    def _advice_on_shares(self, first: int) -> str | None:
        if any(self._share(epoch) for epoch in self._beside_points(first)):
            return None
        return (
            f"policy {self.policy.name!r} never prunes: prune_schedule={self.policy.prune_schedule} is 0 in each of "
            f"the epochs {first} to {self.anneal_epoch - 1} that may be pruned"
        )

    def _beside_points(self, first: int) -> set[int]:
        """Epochs of [first, anneal epoch) next to a point: if all of their shares are 0, so are those between them."""
        last = self.anneal_epoch - 1
        places = [floor(progress * self.epochs) for progress, _ in self._points.points]
        beside = {place + step for place in places for step in (-1, 0, 1)}
        return {first, last} | {epoch for epoch in beside if first <= epoch <= last}

    def _share(self, epoch: int) -> Fraction:
        return self._points.share(Fraction(epoch, self.epochs))

    @property
    def _points(self) -> PruneSchedule:
        return prune_schedule(str(self.policy.prune_schedule))


def _reaching(epoch: int, epochs: int) -> str:
    """A decimal δ with ⌊δ·epochs⌋ = epoch: epoch/epochs, rounded up in as many digits as that takes."""
    digits = len(str(epochs))
    number = str(-(-epoch * 10**digits // epochs))
    return f"0.{number.zfill(digits)}".rstrip("0")
