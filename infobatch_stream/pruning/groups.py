"""Groups of shards: the sources of a data set, each with statistics, and on request with a threshold, of its own."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError

__all__ = ["MAX_GROUPS", "Groups", "Ranges"]

MAX_GROUPS = 253
"""With a class for each group, one that is kept, and two of samples that are left out, codes have 8 bits."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, eq=False)
class Ranges:
    """Consecutive samples that belong together, as ascending ranges.

    Args:
        starts: int64 (R,).
        stops: int64 (R,), each above its start, and at most the next start.
        codes: uint8 (R,), of which group each range is.
    """

    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    codes: npt.NDArray[np.uint8]

    def of(self, code: int) -> Ranges:
        """The ranges of one group."""
        chosen = self.codes == code
        return Ranges(self.starts[chosen], self.stops[chosen], self.codes[chosen])

    @property
    def num_samples(self) -> int:
        """Samples in all of them."""
        return int((self.stops - self.starts).sum())


@dataclass(frozen=True, eq=False)
class Groups:
    """Which shard belongs to which group.

    Args:
        names: by code, sorted: 1 to 253 names of 1 to 64 letters, digits, ".", "_" or "-".
        of_shard: uint8 (S,), the group's code of each shard; every group has a shard.
        shard_sizes: int64 (S,), samples by shard.

    Raises:
        ConfigError: invalid names or codes, or a group without a shard.

    Example:
        >>> groups = Groups(("books", "web"), np.array([1, 0, 0], np.uint8), np.array([3, 2, 2]))
        >>> groups.ranges.starts.tolist(), groups.ranges.stops.tolist(), groups.ranges.codes.tolist()
        ([0, 3], [3, 7], [1, 0])
    """

    names: tuple[str, ...]
    of_shard: npt.NDArray[np.uint8]
    shard_sizes: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MAX_GROUPS:
            raise ConfigError(f"groups has {len(self.names)} groups; give 1 to {MAX_GROUPS}")
        for name in self.names:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"groups: {name[:100]!r} can't name a group: use 1 to 64 letters, digits, '.', '_' or '-', "
                    "beginning with a letter or digit"
                )
        if list(self.names) != sorted(set(self.names)):
            raise ConfigError(f"groups: names must be sorted and each there once; they are {', '.join(self.names)}")
        if self.of_shard.dtype != np.uint8 or self.of_shard.shape != self.shard_sizes.shape:
            raise ConfigError(
                f"the shards' groups are {self.of_shard.dtype} {self.of_shard.shape}; they must be uint8 "
                f"{self.shard_sizes.shape}, one for each shard"
            )
        if (highest := int(self.of_shard.max(initial=0))) >= len(self.names):
            raise ConfigError(f"a shard is of group {highest}, and there are {len(self.names)} groups, from 0")
        shards = np.bincount(self.of_shard, minlength=len(self.names))
        if not shards.all():
            raise ConfigError(f"group {self.names[int(shards.argmin())]!r} has no shard")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def ranges(self) -> Ranges:
        """The samples of all groups, ascending; neighbouring shards of one group are one range."""
        ends = np.cumsum(self.shard_sizes)
        filled = np.flatnonzero(self.shard_sizes)
        codes = self.of_shard[filled]
        last = np.append(np.flatnonzero(np.diff(codes)), len(codes) - 1)[: len(codes)]
        stops = ends[filled[last]]
        return Ranges(np.append(0, stops)[:-1], stops, codes[last])

    @cached_property
    def sha256(self) -> bytes:
        """SHA-256 of the shards' codes."""
        return hashlib.sha256(self.of_shard.tobytes()).digest()

    def sums(self, by_shard: npt.NDArray[np.int64]) -> list[int]:
        """The sum over each group's shards, of int64 (S,)."""
        totals = np.zeros(len(self.names), np.int64)
        np.add.at(totals, self.of_shard, by_shard)
        return [int(total) for total in totals]

    def __str__(self) -> str:
        return f"{', '.join(self.names)} ({self.sha256.hex()[:12]})"
