"""The interface of a policy: scores and a position in, a class per sample and a row per class out.

A policy is one small module. It says which class every sample belongs to and how much of each class is kept; the
draw itself, the static mask and annealed epochs are the same for all of them (infobatch_stream.plan.epoch_plan).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.pruning.draw import Codes
from infobatch_stream.ratios import LANES
from infobatch_stream.scores.blocks import Scores
from infobatch_stream.scores.columns import ColumnSpec

__all__ = ["KEPT", "ClassRow", "Classification", "ParamValue", "Policy", "Position", "ScoreView", "one_class"]

ParamValue = int | float | str | bool | tuple[float, ...]


@dataclass(frozen=True)
class ScoreView:
    """What a policy may look at: read-only arrays over all samples.

    Args:
        score: float32 (N,), read in slices; NaN where never scored, and where the static mask leaves a sample out.
        stamp: uint16 (N,), epoch + 1 of the last update; 0 where there was none.
        visits: uint16 (N,), epochs in which the sample was scored.
        num_samples: samples that may be trained: N, or those in the static mask.
        columns: what the policy declared, (N,) each.
    """

    score: Scores
    stamp: npt.NDArray[np.uint16]
    visits: npt.NDArray[np.uint16]
    num_samples: int
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where in the schedule a plan is drawn: epoch of `epochs`, unpruned from `anneal_epoch` on."""

    epoch: int
    epochs: int
    anneal_epoch: int


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """How much of one class is kept.

    Args:
        name: as statistics show it.
        keep_65536: k: a sample is kept with probability k/65536 (Bernoulli), or m = ⌊k·n/65536 + ½⌋ of n (exact).
        keep_count: m itself, where the policy fixes it; then `keep_65536` is not looked at.
    """

    name: str
    keep_65536: int = LANES
    keep_count: int | None = None


KEPT = ClassRow(name="kept")
"""The class of samples that are never pruned; every policy's class 0."""


def one_class(part: slice) -> npt.NDArray[np.uint8]:
    """Codes of a policy whose samples are all of class 0."""
    return np.zeros(part.stop - part.start, np.uint8)


@dataclass(frozen=True, kw_only=True)
class Classification:
    """A class for every sample.

    Args:
        codes: slice → uint8, indices into `rows`, so that no policy has to hold N of them; where one does, in an
            array, its `__getitem__`.
        rows: at most 255 of them.
        num_scored: samples with a score, where the policy has counted them.
        threshold: where there is one, as statistics show it.
        cut_class: the code of the class that the threshold made.
        cut_size: samples that the threshold cut off, where they aren't just that class.
        prune_requested: samples that the policy meant to prune; 0 where it has no such number.
    """

    codes: Codes
    rows: tuple[ClassRow, ...]
    num_scored: int | None = None
    threshold: float | None = None
    cut_class: int | None = None
    cut_size: int | None = None
    prune_requested: int = 0


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """Which samples are pruned. Immutable, picklable, the same arrays for the same inputs.

    Args:
        rescale: kept samples of a pruned class weigh 1/p (Horvitz–Thompson). Off: 1, and the policy is biased.
        anneal: unpruned from ⌊δ·C⌋ on. Off: pruned to the end.
        draw: "bernoulli" (Eq. 4 to the letter) or "exact" (m of n in each class); "" takes the policy's default.
        condition: "low" prunes from the lowest score up (the paper), "high" from the highest down. Says nothing where
            a policy looks at no score.
    """

    name: ClassVar[str]
    uses_scores: ClassVar[bool] = True
    drops_without_weight: ClassVar[bool] = False
    columns: ClassVar[tuple[ColumnSpec, ...]] = ()

    rescale: bool = True
    anneal: bool = True
    draw: str = ""
    condition: str = "low"

    def __post_init__(self) -> None:
        if self.condition not in ("low", "high"):
            raise ConfigError(f"condition={self.condition!r} is neither 'low' nor 'high'")
        if self.draw == "":
            object.__setattr__(self, "draw", self._default_draw())
        if self.draw not in ("bernoulli", "exact"):
            raise ConfigError(f"draw={self.draw!r} is neither 'bernoulli' nor 'exact'")

    @property
    def pushed_columns(self) -> tuple[ColumnSpec, ...]:
        """The columns whose values the client pushes; the server folds the others from the scores."""
        return tuple(column for column in self.columns if column.source == "pushed")

    @property
    def biased(self) -> bool:
        """True where Σ weight·g is not unbiased for the sum of gradients over all samples."""
        return self.drops_without_weight or not self.rescale

    def finds_odd(self, low_share: float | None) -> bool:
        """True where a pruned class of this share of the scored samples says that something is off with the scores."""
        return False

    @abstractmethod
    def classes(self, view: ScoreView, position: Position) -> Classification:
        """A class for every sample of `view`, at a position before annealing."""

    @abstractmethod
    def _settings(self) -> dict[str, ParamValue]:
        """The policy's own settings, without the switches that all have."""

    def params(self) -> dict[str, ParamValue]:
        """Every setting by name, sorted; `make_policy(name, **params)` makes the same policy again."""
        switches = {name: getattr(self, name) for name in ("rescale", "anneal", "draw", "condition")}
        own: dict[str, ParamValue] = {**self._settings(), **switches}
        return dict(sorted(own.items()))

    def derived_params(self, num_samples: int) -> dict[str, ParamValue]:
        """Integers that follow from the decimal strings, for the other side to check."""
        return {}

    def _default_draw(self) -> str:
        return "bernoulli"
