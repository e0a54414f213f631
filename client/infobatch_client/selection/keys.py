"""Finds samples by their keys: `subset=` of the dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infobatch_client.selection.key_sources import BY_CONTENTS, keys_or_array
from infobatch_client.shards.index_store import IndexedShards, load_index
from infobatch_stream.errors import ConfigError

__all__ = ["subset_array"]

_BATCH_KEYS = 2**24
_BATCH_BYTES = 2**29
_NAMED = 5


def subset_array(subset: Any, indexed: IndexedShards) -> npt.NDArray[Any]:
    """The dataset's `subset=` as a mask or as sample indices.

    Keys are matched with the shards' in batches of at most 16 million keys or 512 MiB.

    Args:
        subset: a bool array, integers, keys, or a file of one of these.
        indexed: the shards.

    Returns:
        The array that was given, unchecked; or the sample indices of the keys, int64 (n,), ascending.

    Raises:
        ConfigError: keys that are in no shard, in several, or twice in `subset`; some of them are named, all counted.
    """
    keys = keys_or_array(subset)
    if not isinstance(keys, pa.Array):
        return keys
    if not len(keys):
        raise ConfigError("subset has no key in it")
    _refuse_repeated(keys)
    found = np.zeros(len(keys), np.int64)
    counts = np.zeros(len(keys), np.int64)
    for first, batch in _key_batches(indexed):
        rows = pc.index_in(batch, value_set=keys).fill_null(-1).to_numpy()
        samples = np.flatnonzero(rows >= 0)
        known, times = np.unique(rows[samples], return_counts=True)
        counts[known] += times
        found[rows[samples]] = first + samples
    _refuse_unknown(keys, counts, indexed)
    _refuse_ambiguous(keys, counts)
    return np.sort(found)


def _key_batches(indexed: IndexedShards) -> Iterator[tuple[int, pa.Array]]:
    """(sample index of the first, keys) of consecutive samples."""
    parts: list[pa.Array] = []
    first = num_keys = num_bytes = 0
    for index_path in indexed.index_paths:
        index = load_index(index_path)
        if parts and (num_keys + index.head.count > _BATCH_KEYS or num_bytes + len(index.key_bytes) > _BATCH_BYTES):
            yield first, pa.concat_arrays(parts)
            first, parts, num_keys, num_bytes = first + num_keys, [], 0, 0
        buffers = [None, pa.py_buffer(index.key_bounds), pa.py_buffer(index.key_bytes)]
        parts.append(pa.Array.from_buffers(pa.binary(), index.head.count, buffers).cast(pa.large_binary()))
        num_keys, num_bytes = num_keys + index.head.count, num_bytes + len(index.key_bytes)
    yield first, pa.concat_arrays(parts)


def _refuse_repeated(keys: pa.Array) -> None:
    if len(pc.unique(keys)) == len(keys):
        return
    counted = pc.value_counts(keys)
    repeated = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    raise ConfigError(
        f"subset has keys more than once ({len(repeated):,} of them): {_some(repeated)}; give each of them once"
    )


def _refuse_unknown(keys: pa.Array, counts: npt.NDArray[np.int64], indexed: IndexedShards) -> None:
    unknown = keys.filter(pa.array(counts == 0))
    if len(unknown):
        example = load_index(indexed.index_paths[0]).key(0)
        raise ConfigError(
            f"subset has keys of no sample in these shards ({len(unknown):,} of {len(keys):,}): {_some(unknown)}. "
            f"A key is a sample's __key__, such as {example!r}; {BY_CONTENTS}"
        )


def _refuse_ambiguous(keys: pa.Array, counts: npt.NDArray[np.int64]) -> None:
    several = keys.filter(pa.array(counts > 1))
    if len(several):
        raise ConfigError(
            f"subset has keys that are in more than one shard ({len(several):,} of {len(keys):,}): {_some(several)}; "
            "say which are meant: subset=select_samples(shards, lambda sample: (sample['__url__'], sample['__key__']) "
            "in wanted, members=())"
        )


def _some(keys: pa.Array) -> str:
    named = [repr(key.decode("utf-8", "surrogateescape")) for key in keys[:_NAMED].to_pylist()]
    return ", ".join(named) + (f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else "")
