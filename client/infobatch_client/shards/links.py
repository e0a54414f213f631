"""Resolves the hard and symbolic links of a shard to regular files of the same shard, as extracting it would.

A hard link stands for the file that its target names at that point of the archive; a symbolic link for what its target
names in the end, relative to its own folder. Links may lead to links.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from infobatch_client.shards.tar_scan import OddMember, TarMembers

__all__ = ["resolve_links"]

_MAX_STEPS = 40  # as many as Linux follows


def resolve_links(members: TarMembers) -> Iterator[tuple[OddMember, int | str | None]]:
    """Finds what each of `members.odd` stands for, in tar order.

    Yields:
        The member, with the number of the regular file that it stands for; or with the reason why there is none, as
        the end of a sentence; or with None if it is no file: a link to a folder, or to itself.
    """
    if members.odd:
        yield from _Tree(members).resolved()


class _Tree:
    """The folders that a shard would be extracted to: each path's file, by number, or the target of its link."""

    def __init__(self, members: TarMembers) -> None:
        self.members = members
        self.entries: dict[str, int | str] = {}

    def resolved(self) -> Iterator[tuple[OddMember, int | str | None]]:
        """See `resolve_links`."""
        number, odd = 0, self.members.odd
        found: list[int | str | None] = []
        for member in odd:
            self.add_files(number, member.num_before)
            number = member.num_before
            found.append(self.add_odd(member))
        self.add_files(number, len(self.members.names))
        folders = {parent for path in self.entries for parent in _parents(path)}
        for member, what in zip(odd, found, strict=True):
            if member.kind == "symbolic link" or what == "":
                what = self.follow(_path(member.name), folders)
            yield member, what

    def add_files(self, begin: int, end: int) -> None:
        """Adds the regular files with these numbers."""
        for number in range(begin, end):
            self.entries[_path(self.members.names[number])] = number

    def add_odd(self, member: OddMember) -> int | str | None:
        """Adds a link; returns what a hard one stands for, "" if that is a symbolic link."""
        path = _path(member.name)
        if member.kind == "symbolic link":
            self.entries[path] = member.target or "."
            return ""
        if member.kind != "hard link":
            return f"is of the unknown type {member.kind}"
        target = _path(member.target)
        entry = self.entries.get(target)
        if entry is None:
            return f"is a hard link to {member.target!r}, and no file before it in this shard has that name"
        if path == target:
            return None
        self.entries[path] = entry
        return entry if isinstance(entry, int) else ""

    def follow(self, path: str, folders: set[str]) -> int | str | None:
        """The file at the end of the symbolic links from `path` on."""
        first = path
        for _ in range(_MAX_STEPS):
            link = next((part for part in (*_parents(path), path) if isinstance(self.entries.get(part), str)), None)
            if link is None:
                entry = self.entries.get(path)
                if isinstance(entry, int):
                    return entry
                return None if path in folders or path == "." else _dangling(self.entries[first], "isn't in this shard")
            target = str(self.entries[link])
            if target.startswith("/"):
                return _dangling(target, "is an absolute path, outside of this shard")
            path = posixpath.normpath(posixpath.join(posixpath.dirname(link), target, posixpath.relpath(path, link)))
            if path.startswith("../") or path == "..":
                return _dangling(target, "is outside of this shard")
        return _dangling(self.entries[first], "leads round in a circle")


def _dangling(target: int | str, why: str) -> str:
    return f"is a symbolic link to {target!r}, which {why}"


def _path(name: str) -> str:
    """Where a member is extracted to: without "./" and without a leading "/"."""
    return posixpath.normpath(name.lstrip("/") or ".")


def _parents(path: str) -> list[str]:
    """The folders above a path, the outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: number + 1]) for number in range(len(parts))]
