"""Reads samples of local shards by their index, in any order, at the price of one positioned read each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infobatch_client.reading.block import MixedBlock, UniformBlock, plan_block
from infobatch_client.reading.open_shards import OpenShard, OpenShards
from infobatch_client.shards.index_store import IndexedShards
from infobatch_stream.errors import ConfigError, CorruptShardError, ShardError
from infobatch_stream.manifest import Manifest

__all__ = ["Chunk", "ShardReader", "Unreadable"]

Chunk = tuple[NDArray[np.int64], NDArray[np.float32]]
Unreadable = Callable[[int, ShardError], None]

_BLOCK_SAMPLES = 512
_BLOCK_BYTES = 32 * 2**20


class ShardReader:
    """Gives samples as webdataset makes them, by sample index.

    Picklable, and may be used after fork: what it has open is opened by each process for itself, or safely
    shared. Iterators of one reader may be interleaved, but only in one thread.

    Args:
        indexed: what `index_shards` returned.
        max_descriptors: keep at most so many shards open; default a quarter of the process's limit of open
            files, and at most 4,096.

    Example:
        >>> reader = ShardReader(index_shards(expand_shards("data/train-*.tar")))  # doctest: +SKIP
        >>> chunk = np.array([7, 3]), np.array([1.0, 2.0], dtype=np.float32)
        >>> [sample["__index__"] for sample in reader.samples([chunk])]  # doctest: +SKIP
        [7, 3]
    """

    def __init__(self, indexed: IndexedShards, max_descriptors: int | None = None) -> None:
        if max_descriptors is not None and max_descriptors < 1:
            raise ConfigError(f"max_descriptors must be at least 1; got {max_descriptors}")
        self.indexed = indexed
        self._max_descriptors = max_descriptors
        self._shards = OpenShards(indexed, max_descriptors)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the shards."""
        return self.indexed.manifest

    def samples(self, chunks: Iterable[Chunk], on_unreadable: Unreadable | None = None) -> Iterator[dict[str, Any]]:
        """Reads samples in the order given.

        Reading is one block of at most 512 samples behind what has been taken from `chunks`, so that the
        kernel can fetch what isn't in its page cache while the samples before it are used.

        Args:
            chunks: (sample indices, int64 (n,); weights, float32 (n,)), any number, of any length.
            on_unreadable: called with (sample index, error) for a sample that can't be read, which is then
                left out. Default: the error is raised.

        Yields:
            One dict per sample: `__key__`, `__url__`, `__local_path__` and the members by extension (bytes,
            in tar order) exactly as webdataset gives them, and `__index__` (int) and `__weight__` (float that
            holds the float32 value).

        Raises:
            ConfigError: an index out of range, or arrays of other shapes or types.
            ShardChangedError: a shard isn't the one that was indexed.
            CorruptShardError: a shard can't be read; the message gives the byte.
        """

        def failed(index: int, error: OSError | None) -> None:
            problem = self._problem(index, error)
            if on_unreadable is None:
                raise problem from error
            on_unreadable(index, problem)

        current: UniformBlock | MixedBlock | None = None
        for block in self._blocks(chunks, on_unreadable):
            block.places.hint_if_cold()
            if current is not None:
                yield from current.samples(failed)
            current = block
        if current is not None:
            yield from current.samples(failed)

    def close(self) -> None:
        """Closes what is open. The reader stays usable, and opens it again when needed."""
        self._shards.close()

    def __getstate__(self) -> dict[str, Any]:
        """What is open stays behind."""
        return {"indexed": self.indexed, "max_descriptors": self._max_descriptors}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["indexed"], state["max_descriptors"])  # type: ignore[misc]

    def _blocks(self, chunks: Iterable[Chunk], on_unreadable: Unreadable | None) -> Iterator[UniformBlock | MixedBlock]:
        mean_bytes = max(1, self.indexed.total_bytes // self.manifest.num_samples)
        length = max(1, min(_BLOCK_SAMPLES, _BLOCK_BYTES // mean_bytes, self._shards.limit))
        for indices, weights in chunks:
            numbers, positions = self.manifest.locate(indices)
            weights = np.asarray(weights, dtype=np.float32)
            if weights.shape != numbers.shape:
                raise ConfigError(f"a chunk needs one weight per sample index; got {weights.shape} for {numbers.shape}")
            indices = np.asarray(indices, dtype=np.int64)
            for begin in range(0, len(indices), length):
                part = slice(begin, begin + length)
                block = self._block(indices[part], weights[part], numbers[part], positions[part], on_unreadable)
                if block is not None:
                    yield block

    def _block(
        self,
        indices: NDArray[np.int64],
        weights: NDArray[np.float32],
        numbers: NDArray[np.int64],
        positions: NDArray[np.int64],
        on_unreadable: Unreadable | None,
    ) -> UniformBlock | MixedBlock | None:
        opened: dict[int, OpenShard] = {}
        for number in dict.fromkeys(numbers.tolist()):
            try:
                opened[number] = self._shards.get(number)
            except ShardError as error:
                if on_unreadable is None:
                    raise
                is_lost = numbers == number
                for index in indices[is_lost].tolist():
                    on_unreadable(index, error)
                indices, weights = indices[~is_lost], weights[~is_lost]
                numbers, positions = numbers[~is_lost], positions[~is_lost]
        return plan_block(indices, weights, numbers, positions, opened) if opened else None

    def _problem(self, index: int, error: OSError | None) -> ShardError:
        """What is wrong with a sample that couldn't be read."""
        numbers, positions = self.manifest.locate([index])
        try:
            shard = self._shards.get(int(numbers[0]))
        except ShardError as changed:
            return changed
        key = shard.index.key(int(positions[0]))
        first = shard.index.members(int(positions[0]))[0][1]
        if error is not None:
            what = f"reading failed ({error.strerror})"
            return CorruptShardError(f"{shard.path}: {what} in sample {key!r}, which begins at byte {first}")
        size = os.fstat(shard.fd).st_size
        return CorruptShardError(
            f"{shard.path}: the file ends at byte {size}, inside sample {key!r}, which begins at byte "
            f"{first}; it was cut short since it was indexed; copy or write it again, and re-run "
            "`infobatch index`"
        )
