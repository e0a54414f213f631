"""Policies by name: those of this package, then those that other distributions register as entry points."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from infobatch_stream.errors import ConfigError
from infobatch_stream.pruning.policies.base import Policy
from infobatch_stream.pruning.policies.full import Full
from infobatch_stream.pruning.policies.hard import Hard
from infobatch_stream.pruning.policies.infobatch import InfoBatch
from infobatch_stream.pruning.policies.levels import Levels
from infobatch_stream.pruning.policies.random import Random

__all__ = ["ENTRY_POINTS", "POLICIES", "find_policy", "make_policy", "policy_names", "require_registered"]

ENTRY_POINTS = "infobatch_stream.policies"
"""The entry-point group: name → class."""

POLICIES: Mapping[str, type[Policy]] = {policy.name: policy for policy in (InfoBatch, Full, Random, Hard, Levels)}
"""The policies of this package by name."""


def policy_names() -> list[str]:
    """The names that `find_policy` knows: those of this package, then the registered ones, sorted. Loads none."""
    return [*POLICIES, *sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)} - POLICIES.keys())]


def find_policy(name: str) -> type[Policy]:
    """The class of a name. An entry point never replaces a policy of this package, and is loaded at its first use.

    Raises:
        ConfigError: no policy of that name is installed here, or its entry point is not a policy.
    """
    return POLICIES[name] if name in POLICIES else _registered(name)


def make_policy(name: str, **settings: Any) -> Policy:
    """The policy of a name with its settings, and the class's defaults for the others.

    Raises:
        ConfigError: no policy of that name, a setting that it doesn't have, or an invalid value.

    Example:
        >>> make_policy("infobatch", prune_ratio="0.5").params()["prune_ratio"]
        '0.5'
    """
    policy = find_policy(name)
    known = sorted(spec.name for spec in fields(policy))
    for setting in settings:
        if setting not in known:
            raise ConfigError(f"policy {name!r} has no setting {setting!r}; it has {', '.join(known)}")
    return policy(**settings)


def require_registered(policy: Policy) -> Policy:
    """`policy`, if the score server can find its class by its name.

    Raises:
        ConfigError: its class isn't the one that is registered under its name.
    """
    kind = type(policy)
    remedy = (
        f"a policy of your own must be registered under its name in the entry-point group {ENTRY_POINTS!r} of an "
        "installed distribution, for the score server receives a name and settings, never code"
    )
    try:
        registered = find_policy(policy.name)
    except ConfigError as error:
        raise ConfigError(f"policy={policy!r} can't be used: {error}; {remedy}") from error
    if registered is not kind:
        raise ConfigError(
            f"policy={policy!r} can't be used: the name {policy.name!r} is that of {registered.__module__}."
            f"{registered.__qualname__}, not of {kind.__module__}.{kind.__qualname__}; {remedy}"
        )
    return policy


@lru_cache(maxsize=64)
def _registered(name: str) -> type[Policy]:
    """The class that an entry point of this name stands for."""
    entries = {entry.value: entry for entry in entry_points(group=ENTRY_POINTS, name=name)}
    if not entries:
        raise ConfigError(f"policy={name!r} is none of {', '.join(policy_names())}")
    if len(entries) > 1:
        raise ConfigError(f"policy={name!r} is registered more than once: {', '.join(sorted(entries))}; uninstall one")
    [entry] = entries.values()
    policy = _loaded(entry)
    if (problem := _problem(policy, name)) is not None:
        raise ConfigError(f"policy={name!r}: {entry.value} {problem}")
    return policy  # type: ignore[no-any-return]


def _loaded(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"policy={entry.name!r}: {entry.value} can't be imported: {error!r}") from error


def _problem(policy: Any, name: str) -> str | None:
    """Why an object isn't the policy of a name, or None."""
    if not (isinstance(policy, type) and issubclass(policy, Policy)):
        return "does not extend infobatch_stream.pruning.policies.Policy"
    params = vars(policy).get("__dataclass_params__")
    if params is None or not params.frozen:
        return "is not a frozen dataclass: decorate it with @dataclass(frozen=True, kw_only=True)"
    if inspect.isabstract(policy):
        return f"lacks {', '.join(sorted(policy.__abstractmethods__))}"
    if getattr(policy, "name", None) != name:
        return f"has name={getattr(policy, 'name', None)!r}; it must be the entry point's name"
    return None
