"""The interface of a policy: scores and a position in, a class per sample and a row per class out.

A policy is one small module. It says which class each sample belongs to and how much of each class is kept; the
draw, the static mask and unpruned epochs are the same for all of them (infobatch_stream.planner.draw_plan).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.pruning.draw import CodesOf
from infobatch_stream.pruning.groups import Groups
from infobatch_stream.pruning.policies.settings import ParamValue, checked_setting, setting_types
from infobatch_stream.pruning.prune_schedule import prune_schedule
from infobatch_stream.ratios import LANES, Number, Pairs, anneal_epoch, whole_number
from infobatch_stream.scores.blocks import Scores
from infobatch_stream.scores.columns import ColumnSpec, PushedColumn

__all__ = ["KEPT", "ClassRow", "Classification", "Policy", "Position", "ScoreView", "one_class"]


@dataclass(frozen=True)
class ScoreView:
    """The scores that a policy may read: read-only arrays over all samples.

    Args:
        score: float32 (N,), read in slices; NaN where never scored, and where the static mask excludes a sample.
        stamp: uint16 (N,), epoch + 1 of the last update; 0 where there was none.
        visits: uint16 (N,), epochs in which the sample was scored.
        num_samples: samples that may be trained: N, or those in the static mask.
        columns: the policy's columns by name, (N,) each, and "<name>.last" beside a pushed "previous".
        groups: the groups of the run, with the ranges of their samples; None if it has none, and in the view of one
            group, which is all that a policy sees at a time with `per_group`: N is the group's samples then.
    """

    score: Scores
    stamp: npt.NDArray[np.uint16]
    visits: npt.NDArray[np.uint16]
    num_samples: int
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    groups: Groups | None = None


@dataclass(frozen=True, kw_only=True)
class Position:
    """The epoch of a plan, and how much of its volume the policy prunes in it.

    Args:
        epoch: t in [0, C).
        epochs: C.
        anneal_epoch: the first epoch of the unpruned end.
        share: s in (0, 1], exact: the prune schedule at progress t/C, 1 without one. A policy multiplies its volume
            by it: a prune ratio, or a number of samples.
    """

    epoch: int
    epochs: int
    anneal_epoch: int
    share: Fraction = Fraction(1)

    @property
    def progress(self) -> Fraction:
        """t/C, exactly."""
        return Fraction(self.epoch, self.epochs)


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """How much of one class is kept.

    Args:
        name: for statistics.
        keep_65536: k: a sample is kept with probability k/65536 (Bernoulli), or m = ⌊k·n/65536 + ½⌋ of n (exact).
        keep_count: m itself, if the policy fixes it; `keep_65536` is ignored then.

    Raises:
        ConfigError: k outside [0, 65536], m below 0, or another type.
    """

    name: str
    keep_65536: int = LANES
    keep_count: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep_65536", whole_number(self.keep_65536, f"class {self.name!r}: keep_65536"))
        if self.keep_65536 > LANES:
            raise ConfigError(f"class {self.name!r}: keep_65536={self.keep_65536} is above {LANES}")
        if self.keep_count is not None:
            object.__setattr__(self, "keep_count", whole_number(self.keep_count, f"class {self.name!r}: keep_count"))


_UNSENT_BY_DEFAULT = {"unsent by default": True}

KEPT = ClassRow(name="kept")
"""The class of samples that are never pruned; class 0 of policies that have one."""


def one_class(part: slice) -> npt.NDArray[np.uint8]:
    """Codes of a policy whose samples are all of class 0."""
    return np.zeros(part.stop - part.start, np.uint8)


@dataclass(frozen=True, kw_only=True)
class Classification:
    """A class for each sample.

    Args:
        codes: slice → uint8, indices into `rows`, so that no policy has to hold N of them; of a policy that does, its
            array's `__getitem__`.
        rows: 1 to 254 of them.
        num_scored: samples with a score, if the policy has counted them.
        threshold: for statistics, if there is one.
        cut_class: the code of the class that the threshold made.
        cut_size: number of samples beyond the threshold, if it differs from the size of that class.
        prune_requested: number of samples that the policy should prune; 0 if it has no such number.
    """

    codes: CodesOf
    rows: tuple[ClassRow, ...]
    num_scored: int | None = None
    threshold: float | None = None
    cut_class: int | None = None
    cut_size: int | None = None
    prune_requested: int = 0


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """Which samples are pruned. Immutable, picklable, the same arrays for the same inputs.

    Numbers that decide bits may be given as float, int, str or Decimal, and are stored as decimal strings; a float
    stands for its shortest repr.

    Args:
        delta: δ in [0, 1]: epochs from ⌊δ·C⌋ on are unpruned; the paper's 0.875.
        anneal: off prunes to the end, whatever δ.
        prune_schedule: points [(progress, share), …], progress ascending in [0, 1], share in [0, 1]: the policy's
            volume in epoch t is multiplied by the share at progress t/C, linear between the points and constant before
            the first and after the last. Two points with the same progress make a step; the later one counts there.
            An epoch whose share is 0 is unpruned. Without a volume of its own (`prune_ratio`, `prune_fraction`), the
            shares are the prune ratios. Annealing applies on top; it is the simplest schedule. Also as text:
            "0:0.2,0.5:0.6,1:0".
        rescale: kept samples of a pruned class get weight 1/p (Horvitz–Thompson). Off: 1, and the policy is biased.
        draw: "bernoulli" (each sample by itself) or "exact" (m of n in each class); "" takes the policy's default.
        condition: "low" prunes from the lowest score up (the paper), "high" from the highest down. Ignored by
            policies that don't use scores.
        per_group: classes are made within each group of shards (`groups=` of the dataset): with a threshold, quantiles
            and a fraction of its own, as in a run of the group's shards alone. Off: over all samples.

    Class attributes:
        name: the policy's name, in the run's spec and in statistics.
        needs_scores: the policy prunes by scores; off, it prunes from epoch 0 on and no plan waits for scores.
        never_prunes: every epoch is unpruned.
        drops_without_weight: it drops samples that no weight makes up for.
        follows_schedule: `classes` multiplies the policy's volume by `position.share`; off, a prune schedule is
            refused.
        columns: kept per sample beside the score. May be a property, if they follow from settings.
        derived: names of the integers that `derived_params` gives.

    Raises:
        ConfigError: an invalid setting, or two that exclude each other; the message names them.
    """

    name: ClassVar[str]
    needs_scores: ClassVar[bool] = True
    never_prunes: ClassVar[bool] = False
    drops_without_weight: ClassVar[bool] = False
    follows_schedule: ClassVar[bool] = False
    columns: ClassVar[tuple[ColumnSpec, ...]] = ()
    derived: ClassVar[tuple[str, ...]] = ()

    delta: Number = "0.875"
    anneal: bool = True
    prune_schedule: Pairs = ""
    rescale: bool = True
    draw: Literal["", "bernoulli", "exact"] = ""
    condition: Literal["low", "high"] = "low"
    per_group: bool = field(default=False, metadata=_UNSENT_BY_DEFAULT)

    def __post_init__(self) -> None:
        for name, wanted in setting_types(type(self)).items():
            value = checked_setting(name, getattr(self, name), wanted, unset=self.__dataclass_fields__[name].default)
            object.__setattr__(self, name, value)
        anneal_epoch(self.delta, 1)
        prune_schedule(str(self.prune_schedule))
        if self.prune_schedule and not self.follows_schedule:
            raise ConfigError(
                f"policy {self.name!r} takes no prune_schedule: a class whose `classes` multiplies its volume by "
                "position.share says so by follows_schedule = True"
            )
        if self.condition not in ("low", "high"):
            raise ConfigError(f"condition={self.condition!r} is neither 'low' nor 'high'")
        if self.draw == "":
            object.__setattr__(self, "draw", self._default_draw())
        if self.draw not in ("bernoulli", "exact"):
            raise ConfigError(f"draw={self.draw!r} is neither 'bernoulli' nor 'exact'")
        if self.per_group and self.never_prunes:
            raise ConfigError(f"policy {self.name!r} never prunes, in no group: leave out per_group=True")
        names = [column.name for column in self.columns]
        if len(names) != len(set(names)):
            raise ConfigError(f"policy {self.name!r} declares a column twice: {', '.join(sorted(names))}")

    @property
    def pushed_columns(self) -> tuple[PushedColumn, ...]:
        """The values that the client pushes beside each score; the other columns are folded from the scores."""
        return tuple(pushed for column in self.columns if (pushed := column.pushed) is not None)

    @property
    def biased(self) -> bool:
        """Whether Σ weight·g is biased as an estimate of the sum of gradients over all samples."""
        return self.drops_without_weight or not self.rescale

    @property
    def pruned_classes(self) -> int:
        """The classes of its answer besides "kept"; at most 254, and times the number of groups with `per_group`."""
        return 1

    @property
    def peak_share(self) -> Fraction:
        """The largest share of the prune schedule; 1 without one."""
        return prune_schedule(str(self.prune_schedule)).peak

    def finds_odd(self, low_share: float | None) -> bool:
        """Whether a pruned class of this share of the scored samples suggests that the scores are wrong."""
        return False

    def advice(self) -> str | None:
        """A warning for the user if the settings can't do what they say."""
        return None

    @abstractmethod
    def classes(self, view: ScoreView, position: Position) -> Classification:
        """A class for each sample of `view`, in an epoch that isn't unpruned."""

    def params(self) -> dict[str, ParamValue]:
        """The settings by name, sorted, without δ and those that are unset ("" by default, or per_group=False).

        `make_policy(name, delta=…, **params)` makes the same policy again.
        """
        chosen = {spec.name: getattr(self, spec.name) for spec in fields(self) if spec.name != "delta"}
        unset = {
            spec.name
            for spec in fields(self)
            if chosen.get(spec.name) == spec.default and (spec.default == "" or spec.metadata == _UNSENT_BY_DEFAULT)
        }
        return {name: value for name, value in sorted(chosen.items()) if name not in unset}

    def derived_params(self, num_samples: int) -> dict[str, ParamValue]:
        """Integers that follow from the decimal strings, of the epoch that prunes most, for the receiver to check."""
        return {}

    def _default_draw(self) -> str:
        return "bernoulli"
