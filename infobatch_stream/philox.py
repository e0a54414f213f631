"""Counter-based random words: the only source of randomness in plans and orders.

"Word i" of a stream is 64-bit word i mod 4 of the Philox4x64-10 block (⌊i/4⌋ + 1, 0, 0, 0) under the key
(seed, epoch·2³² + generation·2⁸ + stream) (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
Any word can be computed without the words before it, so a draw can be split into blocks, resumed, or repeated on other
machines.
"""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError

__all__ = ["MAX_GENERATION", "Stream", "WordStream"]

MAX_GENERATION = 2**24 - 1
"""Generations are 1 … 2²⁴−1; 0 stands for the fallback plan, which has no generation."""

_WORDS_PER_BLOCK = 4
_LANES_PER_WORD = 4


class Stream(enum.IntEnum):
    """The purpose of a stream of words; part of its key, so that no two purposes share a word."""

    DRAW = 0
    TIE_BREAK = 1
    SHARD_ORDER = 2
    WINDOW_ORDER = 3
    POLICY = 4


@dataclass(frozen=True)
class WordStream:
    """The words of one stream of one epoch of one generation.

    Immutable and picklable; safe to share between threads.

    Args:
        seed: the run's seed, in [0, 2⁶⁴).
        epoch: in [0, 2³²).
        generation: in [0, 2²⁴).
        stream: the purpose of the words.

    Raises:
        ConfigError: a number is out of range.

    Example:
        >>> WordStream(seed=0, epoch=1, generation=1, stream=Stream.DRAW).words(0, 1)
        array([15216816778358337665], dtype=uint64)
    """

    seed: int
    epoch: int
    generation: int
    stream: Stream

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ConfigError(f"seed={self.seed} is outside [0, 2**64)")
        if not 0 <= self.epoch < 2**32:
            raise ConfigError(f"epoch={self.epoch} is outside [0, 2**32)")
        if not 0 <= self.generation <= MAX_GENERATION:
            raise ConfigError(
                f"generation={self.generation} is outside [0, {MAX_GENERATION}], the number of times that a run can "
                "be attached; start a new run"
            )

    def words(self, start: int, stop: int) -> npt.NDArray[np.uint64]:
        """Words [start, stop), uint64."""
        if stop <= start:
            return np.empty(0, np.uint64)
        skip = start % _WORDS_PER_BLOCK
        generator = self._generator(start // _WORDS_PER_BLOCK)
        return generator.integers(0, 2**64, size=stop - start + skip, dtype=np.uint64)[skip:]

    def words_at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Words at ascending positions (n,), uint64.

        Dense ranges are computed together: a sparse position costs a block, a dense one 3 ns.
        """
        out = np.empty(len(positions), np.uint64)
        if not len(positions):
            return out
        breaks = np.flatnonzero(np.diff(positions) > 1024) + 1
        edges = [0, *breaks.tolist(), len(positions)]
        for begin, end in itertools.pairwise(edges):
            first, last = int(positions[begin]), int(positions[end - 1])
            out[begin:end] = self.words(first, last + 1)[positions[begin:end] - first]
        return out

    def lanes(self, start: int, stop: int) -> npt.NDArray[np.uint16]:
        """16-bit lanes [start, stop): lane i is bits 16·(i mod 4) … +15 of word ⌊i/4⌋."""
        if stop <= start:
            return np.empty(0, np.uint16)
        first_word = start // _LANES_PER_WORD
        words = self.words(first_word, -(-stop // _LANES_PER_WORD))
        lanes = words.astype("<u8", copy=False).view("<u2")
        return lanes[start - first_word * _LANES_PER_WORD :][: stop - start].astype(np.uint16, copy=False)

    def _generator(self, block: int) -> np.random.Generator:
        key = np.array([self.seed, (self.epoch << 32) | (self.generation << 8) | int(self.stream)], dtype=np.uint64)
        bits = np.random.Philox(key=key, counter=0)
        if block:
            bits.advance(block)
        return np.random.Generator(bits)
