"""Disks that fail in the middle of a store's life, and lives that can be lived twice."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from tests.server.power.life import Life

__all__ = ["FaultyDisk", "living"]


class FaultyDisk:
    """Counts operations; some of them fail.

    Args:
        fails: whether an operation fails, by its number and name.
        number: the error's.
    """

    def __init__(self, fails: Callable[[int, str], bool] = lambda count, name: False, number: int = errno.EIO) -> None:
        self.fails = fails
        self.count = 0
        self.failed: list[str] = []
        self._number = number

    def __call__(self, operation: str, path: Path) -> None:
        self.count += 1
        if self.fails(self.count, operation):
            self.failed.append(f"{operation} {path.name}")
            raise OSError(self._number, os.strerror(self._number), str(path))


@contextmanager
def living(root: Path, disk: FaultyDisk, seed: int) -> Iterator[Life]:
    """A life on an empty disk. Lives of one seed create runs of the same ids."""
    root.mkdir()
    ids = [number.to_bytes(16, "big") for number in range(1, 1000)]
    with mock.patch("infobatch_server.runs.registry.os.urandom", side_effect=ids):
        yield Life(root, seed, fault=disk)
