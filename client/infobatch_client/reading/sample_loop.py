"""The inner loop of reading: one positioned read and one dict literal per sample.

Shards whose samples all have the same members, which is nearly every data set, are read by a loop that is
written for exactly that layout. It is generated as `dataclasses` generates `__init__`: from the number of
members and which of them are inline. Names of extensions are arguments and never part of the source.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from infobatch_client.shards.index import Layout

__all__ = ["Failed", "SampleLoop", "complete", "sample_loop"]

Failed = Callable[[int, "OSError | None"], None]
"""Told of a sample, by its index, whose bytes couldn't be read; raises, or the row is left out."""

SampleLoop = Callable[[Sequence[Sequence[Any]], Failed], Iterator[dict[str, Any]]]


@lru_cache(maxsize=256)
def sample_loop(layout: Layout) -> SampleLoop:
    """The loop for samples of a layout.

    It takes columns, one list each, all of one length: sample index, weight, key, `OpenShard`, and then per
    member that is inline, its bytes; if any isn't, first byte and number of bytes of the read that covers
    them; if several aren't, begin and end of each within that read.

    Args:
        layout: (extension, whether inline) of every member, in tar order.

    Returns:
        A generator function of (columns, failed) that yields one sample dict per row.
    """
    source = _source(tuple(is_inline for _, is_inline in layout))
    scope: dict[str, Any] = {"pread": os.pread, "complete": complete}
    exec(compile(source, f"<samples of {len(layout)} members>", "exec"), scope)
    make: Callable[..., SampleLoop] = scope["make"]
    return make(*(extension for extension, _ in layout))


def complete(data: bytes, fd: int, size: int, first: int) -> bytes | None:
    """Reads what a short read left out: one call gives 2 GiB at most. None if the file ends before."""
    parts, have = [data], len(data)
    while have < size:
        data = os.pread(fd, size - have, first + have)
        if not data:
            return None
        parts.append(data)
        have += len(data)
    return b"".join(parts)


def _source(inline: tuple[bool, ...]) -> str:
    large = [number for number, is_inline in enumerate(inline) if not is_inline]
    columns = ["index", "weight", "key", "shard"]
    columns += [f"v{number}" for number, is_inline in enumerate(inline) if is_inline]
    values = {number: f"v{number}" for number in range(len(inline))}
    if large:
        columns += ["first", "size"]
    if len(large) == 1:
        values[large[0]] = "data"
    elif large:
        for number in large:
            columns += [f"a{number}", f"b{number}"]
            values[number] = f"data[a{number}:b{number}]"
    names = ", ".join(f"e{number}" for number in range(len(inline)))
    entries = ['"__key__": key', '"__url__": shard.url', f"e0: {values[0]}", '"__local_path__": shard.path']
    entries += [f"e{number}: {values[number]}" for number in range(1, len(inline))]
    entries += ['"__index__": index', '"__weight__": weight']
    read = (
        "            try:\n"
        "                data = pread(shard.fd, size, first)\n"
        "                if len(data) != size:\n"
        "                    data = complete(data, shard.fd, size, first)\n"
        "            except OSError as error:\n"
        "                failed(index, error)\n"
        "                continue\n"
        "            if data is None:\n"
        "                failed(index, None)\n"
        "                continue\n"
    )
    return (
        f"def make({names}):\n"
        "    def samples(columns, failed):\n"
        f"        for {', '.join(columns)} in zip(*columns):\n"
        f"{read if large else ''}"
        f"            yield {{{', '.join(entries)}}}\n"
        "    return samples\n"
    )
