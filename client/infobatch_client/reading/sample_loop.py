"""Generates the inner loop of reading: one positioned read and one dict literal per sample.

In nearly every data set all samples have the same members. Such shards are read by a loop for exactly that
layout, generated as `dataclasses` generates `__init__`: from the number of members and which of them are inline.
Extensions are arguments and never part of the generated source.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from infobatch_client.shards.index import Layout

__all__ = ["Failed", "SampleLoop", "complete", "sample_loop"]

Failed = Callable[[int, "OSError | None"], None]
"""Called with the index of an unreadable sample and the error (None: the file ended early); if it returns, the sample
is skipped."""

SampleLoop = Callable[[Sequence[Sequence[Any]], Failed], Iterator[dict[str, Any]]]


@lru_cache(maxsize=256)
def sample_loop(layout: Layout) -> SampleLoop:
    """The loop for samples with this layout.

    Its columns are lists of equal length: sample index, weight, key, `OpenShard`; then the bytes of each inline
    member; then, if there are larger members, first byte and size of the read that covers them; then, if there
    are several, begin and end of each within that read.

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
    """Completes a short read (one call reads at most 2 GiB); None if the file ends before `size` bytes."""
    parts, num_read = [data], len(data)
    while num_read < size:
        data = os.pread(fd, size - num_read, first + num_read)
        if not data:
            return None
        parts.append(data)
        num_read += len(data)
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
