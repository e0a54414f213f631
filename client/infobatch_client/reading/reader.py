"""Reads samples of local shards by sample index, in any order, with one positioned read per sample."""

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
    """Reads samples by sample index, as the dicts that webdataset makes.

    Picklable, and usable after fork: each process opens its own files, or shares those opened before the fork,
    safely. Iterators of one reader may be interleaved, but only in one thread.

    Args:
        indexed: the result of `index_shards`.
        max_descriptors: number of shards to keep open at most; default a quarter of the process's limit of open
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
        """Reads samples in the order of `chunks`.

        Takes one block of at most 512 samples from `chunks` in advance, so that the kernel can load it into its
        page cache while the samples before it are used.

        Args:
            chunks: (sample indices, int64 (n,); weights, float32 (n,)), any number, of any length.
            on_unreadable: called with (sample index, error) for each unreadable sample, which is then skipped.
                Default: the error is raised.

        Yields:
            One dict per sample: `__key__`, `__url__`, `__local_path__` and the members by extension (bytes,
            in tar order), exactly as in webdataset, and `__index__` (int) and `__weight__` (a float with the
            float32 value).

        Raises:
            ConfigError: an index is out of range, or an array has the wrong shape or dtype.
            ShardChangedError: a shard has changed since it was indexed.
            CorruptShardError: a shard can't be read; the message names the byte.
        """

        def failed(index: int, error: OSError | None) -> None:
            problem = self._problem(index, error)
            if on_unreadable is None:
                raise problem from error
            on_unreadable(index, problem)

        self._shards.begin_pass()
        current: UniformBlock | MixedBlock | None = None
        for block in self._blocks(chunks, on_unreadable):
            block.places.hint_if_cold()
            if current is not None:
                yield from current.samples(failed)
            current = block
        if current is not None:
            yield from current.samples(failed)

    def close(self) -> None:
        """Closes all shards. The reader stays usable, and opens them again when needed."""
        self._shards.close()

    def __getstate__(self) -> dict[str, Any]:
        """The state without open shards."""
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
        shards: dict[int, OpenShard] = {}
        for number in dict.fromkeys(numbers.tolist()):
            try:
                shards[number] = self._shards.get(number)
            except ShardError as error:
                if on_unreadable is None:
                    raise
                is_unreadable = numbers == number
                for index in indices[is_unreadable].tolist():
                    on_unreadable(index, error)
                indices, weights = indices[~is_unreadable], weights[~is_unreadable]
                numbers, positions = numbers[~is_unreadable], positions[~is_unreadable]
        return plan_block(indices, weights, numbers, positions, shards) if shards else None

    def _problem(self, index: int, error: OSError | None) -> ShardError:
        """The error for an unreadable sample; `error` is None if the file ended early."""
        numbers, positions = self.manifest.locate([index])
        try:
            shard = self._shards.get(int(numbers[0]))
        except ShardError as changed:
            return changed
        key = shard.index.key(int(positions[0]))
        first = shard.index.members(int(positions[0]))[0][1]
        if error is not None:
            return CorruptShardError(
                f"{shard.path}: reading failed ({error.strerror}) in sample {key!r}, which begins at byte {first}; "
                "check its disk"
            )
        size = os.fstat(shard.fd).st_size
        return CorruptShardError(
            f"{shard.path}: the file ends at byte {size}, inside sample {key!r}, which begins at byte "
            f"{first}; it was truncated after it was indexed; copy or write it again, and re-run "
            "`infobatch index`"
        )
