"""A disk's log, and what a power cut at any moment may leave of it.

Each 512-byte piece of a file that was not synced is kept or lost, and so is each change of a name that no sync of its
folder covers. A rename is one change, as file systems promise.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["PATTERNS", "Disk", "Image", "Keep", "Pattern"]

PIECE_BYTES = 512

Keep = Callable[[int], bool]
"""Whether a change that was not synced is kept, by its place in the log; asked for each piece of a write."""

Pattern = Callable[[random.Random, int], Keep]
"""Makes a `Keep` for a log of so many changes."""

PATTERNS: dict[str, Pattern] = {
    "nothing": lambda rng, size: lambda place: False,
    "everything": lambda rng, size: lambda place: True,
    "few": lambda rng, size: lambda place: rng.random() < 0.1,
    "half": lambda rng, size: lambda place: rng.random() < 0.5,
    "most": lambda rng, size: lambda place: rng.random() < 0.9,
    "older": lambda rng, size: _until(size - rng.randrange(1, 30)),
    "newer": lambda rng, size: _from(size - rng.randrange(1, 30)),
}


def _until(last: int) -> Keep:
    return lambda place: place < last


def _from(first: int) -> Keep:
    return lambda place: place >= first


@dataclass(frozen=True)
class _Write:
    node: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class _Truncate:
    node: int
    size: int


@dataclass(frozen=True)
class _Sync:
    node: int


@dataclass(frozen=True)
class _Names:
    folder: int
    names: Mapping[str, int | None]


_Change = _Write | _Truncate | _Sync | _Names


@dataclass(eq=False)
class _Node:
    is_folder: bool
    data: bytearray = field(default_factory=bytearray)
    names: dict[str, int] = field(default_factory=dict)
    unsynced: list[tuple[int, _Write | _Truncate | _Names]] = field(default_factory=list)


class Disk:
    """The log of all that happens below a folder. What is there already is on the disk.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: list[_Change] = []
        self.initial: list[_Node] = []
        self._paths: dict[Path, int] = {}
        self._sizes: dict[int, int] = {}
        self._load(root)

    def create(self, path: Path, *, is_folder: bool = False) -> None:
        """A new file or folder; nothing if there is one."""
        if path not in self._paths:
            node = self._add(path, _Node(is_folder))
            self._name(path.parent, {path.name: node})

    def write(self, path: Path, offset: int, data: bytes) -> None:
        """Bytes were written."""
        self.log.append(_Write(self._paths[path], offset, data))

    def truncate(self, path: Path, size: int) -> None:
        """A file was cut, or made longer by zeros."""
        self.log.append(_Truncate(self._paths[path], size))

    def sync(self, path: Path) -> None:
        """A file's bytes, or a folder's names, are on the disk. Folders outside of this disk are."""
        if path in self._paths:
            self.log.append(_Sync(self._paths[path]))

    def rename(self, old: Path, new: Path) -> None:
        """A file has another name in its folder."""
        assert old.parent == new.parent
        self._paths[new] = self._paths.pop(old)
        self._name(new.parent, {old.name: None, new.name: self._paths[new]})

    def remove(self, path: Path) -> None:
        """A file or folder is gone; nothing if it was not there."""
        if path in self._paths:
            del self._paths[path]
            self._name(path.parent, {path.name: None})

    def _name(self, folder: Path, names: Mapping[str, int | None]) -> None:
        self.log.append(_Names(self._paths[folder], names))

    def _add(self, path: Path, node: _Node) -> int:
        self.initial.append(node)
        self._paths[path] = len(self.initial) - 1
        return self._paths[path]

    def _load(self, path: Path) -> int:
        if not path.is_dir():
            return self._add(path, _Node(False, bytearray(path.read_bytes())))
        node = _Node(True)
        number = self._add(path, node)
        node.names = {child.name: self._load(child) for child in path.iterdir()}
        return number


class Image:
    """A disk after the first changes of its log. It takes the disk over.

    Args:
        disk: the disk, of which nothing is recorded any more.
    """

    def __init__(self, disk: Disk) -> None:
        self.place = 0
        self._log = disk.log
        self._nodes = disk.initial

    def forward(self, place: int) -> None:
        """Goes on until so many changes have happened."""
        for number in range(self.place, place):
            change = self._log[number]
            if isinstance(change, _Sync):
                node = self._nodes[change.node]
                node.data, node.names = _settled(node, lambda _: True)
                node.unsynced.clear()
            else:
                target = change.folder if isinstance(change, _Names) else change.node
                self._nodes[target].unsynced.append((number, change))
        self.place = place

    def build(self, folder: Path, keep: Keep) -> None:
        """Writes what a power cut leaves here into a folder that doesn't exist yet."""
        self._build(folder, 0, keep)

    def _build(self, path: Path, number: int, keep: Keep) -> None:
        data, names = _settled(self._nodes[number], keep)
        if not self._nodes[number].is_folder:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(handle, data)
            os.close(handle)
            return
        path.mkdir()
        for name, child in names.items():
            self._build(path / name, child, keep)


def _settled(node: _Node, keep: Keep) -> tuple[bytearray, dict[str, int]]:
    data, names = bytearray(node.data), dict(node.names)
    for place, change in node.unsynced:
        if isinstance(change, _Write):
            _write(data, change, place, keep)
        elif keep(place):
            if isinstance(change, _Names):
                names.update({name: child for name, child in change.names.items() if child is not None})
                for name in [name for name, child in change.names.items() if child is None]:
                    names.pop(name, None)
            else:
                del data[change.size :]
                data.extend(bytes(change.size - len(data)))
    return data, names


def _write(data: bytearray, change: _Write, place: int, keep: Keep) -> None:
    start, stop = change.offset, change.offset + len(change.data)
    for first in range(start - start % PIECE_BYTES, stop, PIECE_BYTES):
        if keep(place):
            low, high = max(start, first), min(stop, first + PIECE_BYTES)
            data.extend(bytes(max(0, low - len(data))))
            data[low:high] = change.data[low - start : high - start]
