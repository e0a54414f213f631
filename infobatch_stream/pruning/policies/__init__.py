"""The policies by name. Adding one is one file here and one line in POLICIES."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from infobatch_stream.errors import ConfigError
from infobatch_stream.pruning.policies.base import (
    KEPT,
    Classification,
    ClassRow,
    ParamValue,
    Policy,
    Position,
    ScoreView,
    one_class,
)
from infobatch_stream.pruning.policies.full import Full
from infobatch_stream.pruning.policies.hard import Hard
from infobatch_stream.pruning.policies.infobatch import InfoBatch
from infobatch_stream.pruning.policies.levels import Levels
from infobatch_stream.pruning.policies.random import Random

__all__ = [
    "KEPT",
    "POLICIES",
    "ClassRow",
    "Classification",
    "ParamValue",
    "Policy",
    "Position",
    "ScoreView",
    "make_policy",
    "one_class",
]

POLICIES: Mapping[str, type[Policy]] = {policy.name: policy for policy in (InfoBatch, Full, Random, Hard, Levels)}


def make_policy(name: str, **settings: ParamValue) -> Policy:
    """The policy of a name with its settings; what isn't given takes the policy's default.

    Raises:
        ConfigError: no policy of that name, a setting it hasn't, or a value it can't take.

    Example:
        >>> make_policy("infobatch", prune_ratio="0.5").params()["prune_ratio"]
        '0.5'
    """
    if name not in POLICIES:
        raise ConfigError(f"policy={name!r} is none of {', '.join(POLICIES)}")
    chosen = POLICIES[name]
    known = {field.name: field.type for field in fields(chosen)}
    for setting, value in settings.items():
        if setting not in known:
            raise ConfigError(f"policy {name!r} has no setting {setting!r}; it has {', '.join(sorted(known))}")
        wanted = bool if known[setting] == "bool" else str
        if not isinstance(value, wanted):
            raise ConfigError(f"policy {name!r}: {setting}={value!r} is no {wanted.__name__}")
    return chosen(**settings)  # type: ignore[arg-type]
