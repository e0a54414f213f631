"""Which group each shard belongs to, by the patterns that the user gives for the groups."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Mapping, Sequence

import braceexpand

from infobatch_client.shards.urls import local_path
from infobatch_stream.errors import ConfigError

__all__ = ["group_shards"]

_SHOWN = 3


def group_shards(patterns: Mapping[str, str], shards: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """The names of the groups, sorted, and for each shard the place of its group among them.

    Args:
        patterns: by the group's name, a pattern of a shard's file name, or of (the end of) its path: `*`, `?` and `[…]`
            as in `fnmatch`, and braces.
        shards: paths or `file:` URLs, as the dataset has them.

    Raises:
        ConfigError: no mapping of names to patterns, a shard in no group or in several, or a group without a shard.

    Example:
        >>> group_shards({"web": "web-*.tar", "books": "books-*.tar"}, ["data/web-0.tar", "data/books-0.tar"])
        (('books', 'web'), [1, 0])
    """
    if not isinstance(patterns, Mapping) or not patterns:
        raise ConfigError(
            f"groups={patterns!r}: give a dict of names and patterns of shards, such as "
            '{"web": "web-*.tar", "books": "books-*.tar"}'
        )
    for name, pattern in patterns.items():
        if not isinstance(name, str) or not isinstance(pattern, str) or not pattern:
            raise ConfigError(f"groups: {name!r} has {pattern!r}; each name must have a pattern of shards, as a str")
    names = tuple(sorted(patterns))
    matchers = [_matcher(patterns[name]) for name in names]
    found = [[place for place, matches in enumerate(matchers) if matches(_faces(shard))] for shard in shards]
    if stray := [shard for shard, places in zip(shards, found, strict=True) if not places]:
        raise ConfigError(
            f"groups: {_some(stray)} in no group; a pattern is compared with a shard's file name and its path: give "
            "one that matches, or a group more"
        )
    for shard, places in zip(shards, found, strict=True):
        if len(places) > 1:
            which = ", ".join(f"{names[place]!r} ({patterns[names[place]]})" for place in places)
            raise ConfigError(f"groups: shard {shard} is in {len(places)} groups, {which}; each shard must be in one")
    of_shard = [places[0] for places in found]
    if empty := sorted(set(range(len(names))) - set(of_shard)):
        name = names[empty[0]]
        raise ConfigError(
            f"groups: no shard is in group {name!r} ({patterns[name]}); a pattern is compared with a shard's file name "
            f"and its path, as {shards[0]}"
        )
    return names, of_shard


def _matcher(pattern: str) -> Callable[[tuple[str, ...]], bool]:
    """Says whether one of a shard's names is a pattern's, or matches it."""
    pattern = os.path.expanduser(local_path(pattern))
    try:
        alternatives = list(braceexpand.braceexpand(pattern, escape=False))
    except ValueError:
        alternatives = [pattern]
    ends = [os.path.normpath(text) for text in alternatives]
    matches = re.compile("|".join(fnmatch.translate(each) for end in ends for each in (end, f"*/{end}"))).match
    return lambda faces: any(face in ends or matches(face) for face in faces)


def _faces(shard: str) -> tuple[str, ...]:
    """What a pattern is compared with: file name and path, as it is and from the root."""
    path = local_path(shard)
    return os.path.basename(path), os.path.normpath(path), os.path.abspath(path)


def _some(shards: Sequence[str]) -> str:
    more = f" and {len(shards) - _SHOWN} more are" if len(shards) > _SHOWN else " is" if len(shards) == 1 else " are"
    return f"{'shard' if len(shards) == 1 else 'shards'} {', '.join(shards[:_SHOWN])}{more}"
