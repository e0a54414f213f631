"""Which group each shard belongs to, by the patterns that the user gives for the groups."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

import braceexpand

from infobatch_client.shards.urls import local_path
from infobatch_stream.errors import ConfigError

__all__ = ["group_shards"]

_SHOWN = 3


def group_shards(patterns: Mapping[str, str], shards: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """The names of the groups, sorted, and for each shard the place of its group among them.

    Args:
        patterns: by the group's name, a pattern of a shard's file name, or with slashes, of the last folders and the
            file name of its path, or from the root of all of it: `*`, `?` and `[…]` within a name, and braces.
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
    found = [[place for place, matches in enumerate(matchers) if matches(path)] for path in map(_parts, shards)]
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
    """Says whether the last parts of a path are a pattern's, or match them; nothing above them decides."""
    pattern = os.path.expanduser(local_path(pattern))
    try:
        alternatives = list(braceexpand.braceexpand(pattern, escape=False))
    except ValueError:
        alternatives = [pattern]
    ends = [PurePosixPath(os.path.normpath(text)).parts for text in alternatives]
    matchers = [(end, [re.compile(fnmatch.translate(part)).match for part in end]) for end in ends if end]

    def matches(path: tuple[str, ...]) -> bool:
        for end, parts in matchers:
            last = path[-len(end) :]
            if last == end or (len(last) == len(end) and all(map(lambda match, name: match(name), parts, last))):
                return True
        return False

    return matches


def _parts(shard: str) -> tuple[str, ...]:
    """Root, folders and file name of a shard."""
    return PurePosixPath(os.path.abspath(local_path(shard))).parts


def _some(shards: Sequence[str]) -> str:
    more = f" and {len(shards) - _SHOWN} more are" if len(shards) > _SHOWN else " is" if len(shards) == 1 else " are"
    return f"{'shard' if len(shards) == 1 else 'shards'} {', '.join(shards[:_SHOWN])}{more}"
