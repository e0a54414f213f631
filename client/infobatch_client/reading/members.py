"""Reads chosen members of all samples of a shard, and nothing else of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from infobatch_client.reading.open_shards import OpenShard
from infobatch_client.reading.sample_loop import complete
from infobatch_client.shards.tar_scan import INLINE_BYTES
from infobatch_stream.errors import CorruptShardError

__all__ = ["read_members"]


def read_members(shard: OpenShard, extensions: Collection[str]) -> Iterator[dict[str, Any]]:
    """Reads one member after the other, those of at most 64 bytes from the index.

    Args:
        shard: an open shard.
        extensions: of the members to read.

    Yields:
        For each sample, in tar order: `__key__`, `__url__`, and its members with these extensions, as bytes.

    Raises:
        CorruptShardError: the shard can't be read; the message names the byte.
    """
    index, head = shard.index, shard.index.head
    codes = [code for code, extension in enumerate(head.extensions) if extension in extensions]
    numbers = np.flatnonzero(np.isin(index.extension_codes, codes))
    bounds = np.searchsorted(numbers, index.member_bounds).tolist()
    names = [head.extensions[code] for code in index.extension_codes[numbers].tolist()]
    places = list(zip(names, index.offsets[numbers].tolist(), index.sizes[numbers].tolist(), strict=True))
    inline = index.inline_of(numbers)
    for position, key in enumerate(index.keys):
        sample: dict[str, Any] = {"__key__": key, "__url__": shard.url}
        for number in range(bounds[position], bounds[position + 1]):
            name, offset, size = places[number]
            sample[name] = inline[number] if size <= INLINE_BYTES else _read(shard, key, offset, size)
        yield sample


def _read(shard: OpenShard, key: str, offset: int, size: int) -> bytes:
    try:
        data = complete(b"", shard.fd, size, offset)
    except OSError as error:
        raise CorruptShardError(
            f"{shard.path}: reading failed ({error.strerror}) at byte {offset}, in sample {key!r}; check its disk"
        ) from error
    if data is None:
        raise CorruptShardError(
            f"{shard.path}: the file ends inside the {size} bytes from byte {offset} on, in sample {key!r}; copy or "
            "write it again, and re-run `infobatch index`"
        )
    return data
