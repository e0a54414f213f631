"""The stamp of a shard: what its file system says of the file's last change, so that its index can be trusted.

A program can set a file's modification time (`cp -p`, `rsync -t`, images with constant times), but not the time at
which the inode changed. That one is new on every copy, so an index file knows the stamps of several.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

__all__ = ["Stamp", "let_clock_tick"]

_TICK_S = 0.02  # file systems take their times from a clock that ticks every 1 to 10 ms


class Stamp(NamedTuple):
    """Times and identity of a file, all as `os.stat` gives them.

    Attributes:
        mtime_ns: modification time, nanoseconds since 1970.
        ctime_ns: the inode's last change, nanoseconds since 1970; the same as `mtime_ns` where there is no such time.
        inode: number of the inode.
    """

    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Stamp:
        """The stamp of a file."""
        return cls(stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)

    def is_same_file(self, other: Stamp) -> bool:
        """Whether this is the same file, unchanged.

        Where both times are equal, the modification time was not set by anyone, and says by itself that nothing has
        changed. The inode doesn't count then: mounts of object stores and the like make up new ones each time.
        """
        if self[:2] != other[:2]:
            return False
        return self.inode == other.inode or self.mtime_ns == self.ctime_ns


def let_clock_tick(stat: os.stat_result) -> None:
    """Waits until a change of the file would be given another time than the one that it has."""
    age_s = (time.time_ns() - stat.st_ctime_ns) / 1e9
    if 0 <= age_s < _TICK_S:
        time.sleep(_TICK_S - age_s)
