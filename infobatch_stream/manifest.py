"""The manifest: the ordered shards of a data set, with their sample counts and fingerprints.

Byte layout of a **shard fingerprint**, BLAKE2b with a 32-byte digest over one record per member that belongs
to a sample, in tar order; all integers little endian, text as UTF-8 (undecodable bytes unchanged)::

    uint32  length of the key in bytes      then the key
    uint32  length of the extension         then the extension (lower case, as the sample has it)
    uint64  offset of the member's first data byte in the tar file
    uint64  size of the member in bytes
    uint8   1 if the member is kept inline (then its bytes follow), else 0

Byte layout of a **manifest fingerprint**, the same hash over one record per shard, in order::

    32 bytes  shard fingerprint
    uint64    sample count

Neither depends on URLs, times or owners, so copies of a data set have the same fingerprints.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infobatch_stream.errors import ConfigError, EmptyShardError

__all__ = ["FINGERPRINT_BYTES", "Manifest", "shard_fingerprint"]

FINGERPRINT_BYTES = 32
_INT64_MAX = 2**63 - 1
_PLACE = struct.Struct("<QQB")


def shard_fingerprint(members: Iterable[tuple[str, str, int, int, bytes | None]]) -> bytes:
    """Identifies the contents of a shard: BLAKE2b-256 over its members, in the layout of the module's docstring.

    Args:
        members: `(key, extension, data offset, size, inline bytes or None)` of every member that belongs to
            a sample, in tar order; offsets and sizes in bytes.

    Returns:
        The fingerprint, 32 bytes.

    Example:
        >>> shard_fingerprint([("cat", "cls", 512, 1, b"3")]).hex()[:16]
        '140c6c3a450b8228'
    """
    digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
    records: list[bytes] = []
    pack_place = _PLACE.pack
    prefixed: dict[str, bytes] = {}
    last_key, key_bytes = None, b""
    for key, extension, offset, size, inline in members:
        if key != last_key:
            last_key, key_bytes = key, _length_prefixed(key)
        extension_bytes = prefixed.get(extension)
        if extension_bytes is None:
            extension_bytes = prefixed[extension] = _length_prefixed(extension)
        records += (key_bytes, extension_bytes, pack_place(offset, size, inline is not None))
        if inline is not None:
            records.append(inline)
        if len(records) > 65536:
            digest.update(b"".join(records))
            records.clear()
    digest.update(b"".join(records))
    return digest.digest()


def _length_prefixed(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogateescape")
    return len(encoded).to_bytes(4, "little") + encoded


@dataclass(frozen=True)
class Manifest:
    """The ordered shards of a data set. Immutable, picklable, safe to share between threads.

    Sample indices are dense: shard `s` holds the indices `offsets[s]` … `offsets[s + 1] - 1`.

    Args:
        names: one name per shard, for messages; not part of the fingerprint.
        counts: samples per shard, at least 1 each; length S.
        shard_fingerprints: 32 bytes per shard, length S.
        left_out: names of further shards, which can't be read and are no part of the data set; for messages.

    Raises:
        EmptyShardError: a count is 0; the message names the shard.
        ConfigError: no shards, arguments of different lengths, a negative count, a fingerprint of another length
            than 32 bytes, or a sum of the counts that overflows an int64.

    Example:
        >>> manifest = Manifest(("a.tar", "b.tar"), (2, 3), (bytes(32), bytes(32)))
        >>> manifest.num_samples, manifest.offsets.tolist()
        (5, [0, 2, 5])
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    shard_fingerprints: tuple[bytes, ...]
    left_out: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "counts", tuple(int(count) for count in self.counts))
        object.__setattr__(self, "shard_fingerprints", tuple(self.shard_fingerprints))
        if not self.names:
            raise ConfigError("a manifest needs at least one shard; got none")
        if not len(self.names) == len(self.counts) == len(self.shard_fingerprints):
            raise ConfigError(
                f"names, counts and shard_fingerprints must have one entry per shard; got {len(self.names)}, "
                f"{len(self.counts)} and {len(self.shard_fingerprints)}"
            )
        total = 0
        for number, (name, count, fingerprint) in enumerate(
            zip(self.names, self.counts, self.shard_fingerprints, strict=True)
        ):
            if count == 0:
                raise EmptyShardError(f"{name}: no sample in this shard; remove it from the list of shards")
            if count < 0:
                raise ConfigError(f"{name}: a shard must have at least 1 sample; got {count}")
            if len(fingerprint) != FINGERPRINT_BYTES:
                raise ConfigError(
                    f"{name}: a shard fingerprint must have {FINGERPRINT_BYTES} bytes; got {len(fingerprint)}"
                )
            total += count
            if total > _INT64_MAX:
                raise ConfigError(
                    f"the sum of the sample counts overflows an int64: {self.names[0]} to {name} (the first "
                    f"{number + 1} shards) have {total} samples, the limit is {_INT64_MAX}; check the counts"
                )

    @property
    def num_shards(self) -> int:
        """Number of shards, S."""
        return len(self.names)

    @property
    def num_samples(self) -> int:
        """Number of samples in all shards, N."""
        return int(self._offsets[-1])

    @property
    def offsets(self) -> NDArray[np.int64]:
        """int64 (S + 1,), a new copy: the first sample index of each shard, then N."""
        return np.array(self._offsets)

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        offsets = np.zeros(len(self.counts) + 1, dtype=np.int64)
        np.cumsum(np.array(self.counts, dtype=np.int64), out=offsets[1:])
        return offsets

    @cached_property
    def fingerprint(self) -> bytes:
        """32 bytes that identify the data set: the hash over (shard fingerprint, count) of each shard, in order."""
        digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
        for shard, count in zip(self.shard_fingerprints, self.counts, strict=True):
            digest.update(shard + count.to_bytes(8, "little"))
        return digest.digest()

    @property
    def left_out_hint(self) -> str:
        """For the end of a message about another manifest: which shards are left out; "" if there are none."""
        if not self.left_out:
            return ""
        more = f" and {len(self.left_out) - 8} more" if len(self.left_out) > 8 else ""
        return f"; left out here, as they can't be read: {', '.join(self.left_out[:8])}{more}"

    def locate(self, indices: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Finds the shard of each sample, and the sample's position in it.

        Args:
            indices: sample indices, integers (n,), each in [0, N).

        Returns:
            Shard numbers, int64 (n,), and positions within those shards, int64 (n,).

        Raises:
            ConfigError: `indices` is not a one-dimensional integer array, or one of them is out of range.
        """
        array = np.asarray(indices)
        if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
            raise ConfigError(
                f"sample indices must be a one-dimensional integer array; got {array.dtype} {array.shape}"
            )
        if array.size and (int(array.min()) < 0 or int(array.max()) >= self.num_samples):
            invalid = int(array.min()) if int(array.min()) < 0 else int(array.max())
            raise ConfigError(
                f"sample index {invalid} is out of range: the data set has {self.num_samples} samples "
                f"(0 to {self.num_samples - 1}); was it drawn for another data set?"
            )
        dense = array.astype(np.int64, copy=False)
        shards = np.searchsorted(self._offsets, dense, side="right").astype(np.int64, copy=False) - 1
        return shards, dense - self._offsets[shards]

    def __getstate__(self) -> dict[str, object]:
        """The state without cached properties."""
        return {name: getattr(self, name) for name in ("names", "counts", "shard_fingerprints", "left_out")}
