"""Whether samples that a worker keeps at equal distances may be a filter's choice, which looks at each sample alone.

A filter may choose by shard, by source, in ranges of the sample index, or every n-th of them. What a splitting stage
keeps is none of these if the order mixes the samples; in index order it changes its phase from batch to batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["SampleChoice", "differ"]

_MAX_SAMPLES = 4096
_FEW_KEPT = 16  # of fewer, nothing can be said
_PHASE_BITS = 32


class SampleChoice:
    """The samples that a worker has read at the start of a pass, of which it keeps every n-th, by position.

    Args:
        offsets: int64 (S+1,), the first sample of each shard, and N.
        shuffled: the order mixes the samples one by one; without, stretches of samples stay together.
        dense: the order leaves no sample out.
    """

    def __init__(self, offsets: npt.NDArray[np.int64], *, shuffled: bool, dense: bool) -> None:
        self._offsets, self._shuffled, self._dense = offsets, shuffled, dense
        self._parts: list[npt.NDArray[np.int64]] = []
        self._num_samples = 0

    def add(self, samples: npt.NDArray[np.int64]) -> None:
        """Samples that are read next, int64 (n,), in their order."""
        if self._num_samples < _MAX_SAMPLES:
            self._parts.append(samples)
            self._num_samples += len(samples)

    def judge(self, stride: int, first: int) -> tuple[int, int]:
        """What follows from the samples at positions first, first + stride, …, which are the kept ones.

        Returns:
            (1 if no filter makes such a choice, else 0; a shard and the kept samples' phase in it, packed into one
            number to be compared by `differ`, or -1).
        """
        samples = np.concatenate(self._parts) if self._parts else np.empty(0, np.int64)
        self._parts = [samples]
        kept = np.arange(len(samples)) % stride == first
        if int(kept.sum()) < _FEW_KEPT:
            return 0, -1
        if self._shuffled:
            return int(_is_mixed(kept[np.argsort(samples)])), -1
        return self._phases(samples, kept, stride) if self._dense else (0, -1)

    def _phases(self, samples: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_], stride: int) -> tuple[int, int]:
        """As `judge`, by the phases, sample index modulo stride, of stretches of consecutive samples in one shard."""
        shards = np.searchsorted(self._offsets, samples, side="right") - 1
        begins = (np.diff(samples, prepend=-2) != 1) | (np.diff(shards, prepend=-1) != 0)
        stretches = np.cumsum(begins)[kept]
        _, firsts = np.unique(stretches, return_index=True)
        phases, shards = samples[kept][firsts] % stride, shards[kept][firsts]
        place = -1
        for shard in np.unique(shards).tolist():
            of_shard = phases[shards == shard]
            if np.count_nonzero(np.diff(of_shard)) > 1:
                return 1, -1
            if len(of_shard) > 1 and of_shard[0] == of_shard[-1]:
                place = shard << _PHASE_BITS | int(of_shard[0])
        return 0, place


def differ(places: list[int]) -> bool:
    """Whether workers keep different phases in one shard, each in several stretches of it, as no filter makes them."""
    known = {place for place in places if place >= 0}
    return len({place >> _PHASE_BITS for place in known}) < len(known)


def _is_mixed(kept: npt.NDArray[np.bool_]) -> bool:
    """Whether kept and dropped samples alternate in index order about as often as chance makes them."""
    share = float(kept.mean())
    return int(np.count_nonzero(np.diff(kept))) > share * (1 - share) * (len(kept) - 1)
