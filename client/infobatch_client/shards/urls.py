"""Expands the user's `shards` argument (paths, patterns, folders) into the ordered list of shard URLs."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import braceexpand

from infobatch_stream.errors import ConfigError, ShardError

__all__ = ["ShardsArgument", "expand_shards", "local_path"]

ShardsArgument: TypeAlias = "str | os.PathLike[str] | Iterable[str | os.PathLike[str]]"

_REMOTE = re.compile(r"(?!file:)(?:[A-Za-z][A-Za-z0-9+.-]*://|pipe:)")


def expand_shards(shards: ShardsArgument, *, missing_ok: bool = False) -> list[str]:
    """Lists the shards, in the order in which their samples are numbered.

    Args:
        shards: a file, a `file:` URL, a brace pattern (`data/train-{0000..0049}.tar`), a glob
            (`data/train-*.tar`), a folder (its `*.tar`), or an iterable of any of these. Globs and folders
            are sorted by full path; braces and iterables keep their order. `~` is the home folder.
        missing_ok: keep listed files that don't exist; indexing them is an error.

    Returns:
        One string per shard, each an existing file unless `missing_ok`: a path, or a `file:` URL if the entry was one.

    Raises:
        ConfigError: the list is empty, a pattern matches nothing, a shard is listed twice or
            remote, or an entry is a dict, a YAML file or several joined by `::`.
        ShardError: a listed file doesn't exist.

    Example:
        >>> expand_shards("data/train-{0000..0001}.tar")  # doctest: +SKIP
        ['data/train-0000.tar', 'data/train-0001.tar']
    """
    if isinstance(shards, Mapping):
        raise ConfigError(_no_dict(shards))
    if isinstance(shards, (str, os.PathLike)):
        entries = [shards]
    elif isinstance(shards, Iterable) and not hasattr(shards, "decode"):
        entries = list(shards)
    else:
        raise ConfigError(
            f"shards must be a path, a pattern, a folder or a list of these; got {type(shards).__name__} {shards!r}"
        )
    urls: list[str] = []
    for entry in entries:
        if isinstance(entry, Mapping):
            raise ConfigError(_no_dict(entry))
        if not isinstance(entry, (str, os.PathLike)) or not isinstance(os.fspath(entry), str):
            raise ConfigError(f"every shard must be a string or a path; got {type(entry).__name__} {entry!r}")
        urls.extend(_expand_entry(os.fspath(entry), missing_ok))
    if not urls:
        raise ConfigError("the list of shards is empty; give at least one shard")
    _refuse_duplicates(urls)
    return urls


def local_path(url: str) -> str:
    """Returns the local path of a shard URL from `expand_shards`.

    Raises:
        ConfigError: a `file:` URL names another host.
    """
    if not url.startswith("file:"):
        return url
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(
            f"{url}: a file URL can't name another host ({parts.netloc}); write file:///path or a plain path"
        )
    return unquote(parts.path)


def _expand_entry(text: str, missing_ok: bool) -> list[str]:
    if not text:
        raise ConfigError("an empty string is not a shard; give a file, a pattern or a folder")
    if _REMOTE.match(text):
        advice = "copy them to a local folder, or mount the bucket, and pass the paths"
        if text.startswith("pipe:"):
            advice = "run the command once into a local file, and pass its path"
        raise ConfigError(f"{text}: remote shards are not supported yet; {advice}")
    if text.startswith("~"):
        text = os.path.expanduser(text)
    if text.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"{text}: a YAML file of shards, as webdataset reads it, isn't read here: pass the list of its urls, "
            'shards=["a.tar", "b.tar"]; sources that need thresholds of their own are groups='
        )
    if os.path.exists(local_path(text)):
        return _expand_path(text, missing_ok)
    if "::" in text:
        parts = [part for part in text.split("::") if part]
        raise ConfigError(f"{text}: webdataset's `::` between urls isn't read here: pass a list, shards={parts!r}")
    try:
        patterns = list(braceexpand.braceexpand(text, escape=False))
    except ValueError:
        raise ConfigError(f"{text}: unbalanced braces; write ranges like train-{{0000..0049}}.tar") from None
    return [url for pattern in patterns for url in _expand_path(pattern, missing_ok)]


def _no_dict(shards: Mapping[object, object]) -> str:
    return (
        f"shards must be paths; got a dict of {', '.join(map(repr, list(shards)[:3])) or 'nothing'}, as webdataset's "
        'mixtures are written: pass one list of all shards, shards=["a.tar", "b.tar"], and groups= for thresholds of '
        "their own"
    )


def _expand_path(url: str, missing_ok: bool) -> list[str]:
    path = local_path(url)
    if os.path.isdir(path):
        return _list_folder(path)
    if os.path.exists(path):
        return [url]
    if glob.has_magic(path):
        # Whatever is no folder, also a link to nothing: indexing names it, where leaving it out would lose samples.
        matches = sorted(match for match in glob.glob(path, recursive=True) if not os.path.isdir(match))
        if not matches:
            raise ConfigError(f"{path}: no file matches this pattern; check it, and the working folder {os.getcwd()}")
        return matches
    if missing_ok:
        return [url]
    raise ShardError(f"{path}: no such shard; check the path, and the working folder {os.getcwd()}")


def _list_folder(path: str) -> list[str]:
    names = [name for name in os.listdir(path) if name.endswith(".tar")]
    shards = sorted(full for name in names if not os.path.isdir(full := os.path.join(path, name)))
    if not shards:
        raise ConfigError(
            f"{path}: no *.tar file in this folder; name the folder that holds the shards, or a pattern like "
            f"{os.path.join(path, '**', '*.tar')}"
        )
    return shards


def _refuse_duplicates(urls: list[str]) -> None:
    first: dict[str, str] = {}
    for url in urls:
        real = os.path.realpath(local_path(url))
        if real in first:
            raise ConfigError(
                f"{url}: this shard is listed twice (also as {first[real]}), so each of its samples would have two "
                "scores; list every shard once"
            )
        first[real] = url
