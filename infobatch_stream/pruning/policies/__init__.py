'''The policies by name, and the names that an author of one needs.

A policy is a frozen dataclass that extends `Policy`, in a file of its own. One that comes with this package is listed
in POLICIES; any other is found by its name in the entry-point group `infobatch_stream.policies`, so that it is enough
to install its distribution where the training runs and where the score server runs. A complete one:

    from dataclasses import dataclass
    from typing import ClassVar

    import numpy as np
    from infobatch_stream.pruning.policies import KEPT, Classification, ClassRow, ColumnSpec, Number, Policy, keep_lanes

    @dataclass(frozen=True, kw_only=True)
    class Falling(Policy):
        """Prunes a share of the samples whose loss is below the one before."""

        name: ClassVar[str] = "falling"
        columns: ClassVar[tuple[ColumnSpec, ...]] = (ColumnSpec(name="before", fold="previous", source="score"),)
        follows_schedule: ClassVar[bool] = True  # by position.share, below
        ratio: Number = "0.5"

        def classes(self, view, position):
            def codes(part):
                return (view.score[part] < view.columns["before"][part]).view(np.uint8)

            fell = ClassRow(name="fell", keep_65536=keep_lanes(self.ratio, share=position.share))
            return Classification(codes=codes, rows=(KEPT, fell))

and in the pyproject.toml of its distribution:

    [project.entry-points."infobatch_stream.policies"]
    falling = "my_package.falling:Falling"

Fields are the policy's settings, of the types bool, int, float, str, tuple[float, ...], `Number` (a number that decides
bits) and `Pairs`. They are checked when the object is made and travel to the server by name; code never does.
'''

from __future__ import annotations

from infobatch_stream.pruning.policies.base import (
    KEPT,
    Classification,
    ClassRow,
    Policy,
    Position,
    ScoreView,
    one_class,
)
from infobatch_stream.pruning.policies.catalogue import (
    ENTRY_POINTS,
    POLICIES,
    find_policy,
    make_policy,
    policy_names,
    require_registered,
)
from infobatch_stream.pruning.policies.full import Full
from infobatch_stream.pruning.policies.hard import Hard
from infobatch_stream.pruning.policies.infobatch import InfoBatch
from infobatch_stream.pruning.policies.levels import Levels
from infobatch_stream.pruning.policies.random import Random
from infobatch_stream.pruning.policies.settings import ParamValue
from infobatch_stream.ratios import Number, Pairs, keep_lanes, prune_count
from infobatch_stream.scores.columns import ColumnSpec

__all__ = [
    "ENTRY_POINTS",
    "KEPT",
    "POLICIES",
    "ClassRow",
    "Classification",
    "ColumnSpec",
    "Full",
    "Hard",
    "InfoBatch",
    "Levels",
    "Number",
    "Pairs",
    "ParamValue",
    "Policy",
    "Position",
    "Random",
    "ScoreView",
    "find_policy",
    "keep_lanes",
    "make_policy",
    "one_class",
    "policy_names",
    "prune_count",
    "require_registered",
]
