"""The plan order: the sequence in which an epoch visits its kept samples, a pure function of the plan.

1. permute the shards; 2. concatenate their kept samples ("items"); 3. cut into L contiguous pieces, one per lane;
4. in each piece permute the items, or runs of c of them, within windows of W shards; 5. interleave the lanes in
stripes of m positions. Computed window by window, so that an epoch's first sample is available at once and memory is
bounded by one window per lane.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.philox import Stream, WordStream
from infobatch_stream.plan.epoch_plan import EpochPlan

__all__ = ["PlanOrder"]

_LOW_32 = np.uint64(0xFFFFFFFF)
_HIGH_32 = np.uint64(0xFFFFFFFF00000000)
_LOOP_SHARDS = 64


class PlanOrder:
    """Position → sample index, for the K kept samples of a plan.

    Not thread-safe, as it caches the last window; cheap to create, so that every worker has its own.

    Args:
        plan: the epoch's.
        shard_offsets: int64 (S+1,): shard s holds samples [offsets[s], offsets[s+1]).

    Example:
        >>> order = PlanOrder(plan, manifest.offsets)        # doctest: +SKIP
        >>> order.samples(0, 128)                            # doctest: +SKIP
    """

    def __init__(self, plan: EpochPlan, shard_offsets: npt.NDArray[np.int64]) -> None:
        if len(shard_offsets) != len(plan.shard_kept) + 1 or int(shard_offsets[-1]) != plan.num_samples:
            raise ConfigError(
                f"the plan is for {len(plan.shard_kept)} shards and {plan.num_samples} samples, the data set has "
                f"{len(shard_offsets) - 1} and {int(shard_offsets[-1])}"
            )
        self._plan = plan
        self._offsets = shard_offsets.copy()
        self.num_positions = plan.kept
        num_shards = len(plan.shard_kept)
        words = WordStream(plan.seed, plan.epoch, plan.generation, Stream.SHARD_ORDER).words(0, num_shards)
        self._shards = np.argsort(words, kind="stable")
        self._item_starts = np.zeros(num_shards + 1, np.int64)
        np.cumsum(plan.shard_kept[self._shards], out=self._item_starts[1:])
        self._window_words = WordStream(plan.seed, plan.epoch, plan.generation, Stream.WINDOW_ORDER)
        self._lane_starts = self._cut_into_lanes()
        self._windows: dict[int, tuple[int, int, npt.NDArray[np.int64]]] = {}

    def samples(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Sample indices (n,) at positions [start, stop), int64; fastest in ascending calls.

        Raises:
            ConfigError: the range is outside [0, K].
        """
        if not 0 <= start <= stop <= self.num_positions:
            raise ConfigError(f"positions [{start}, {stop}) are outside [0, {self.num_positions}]")
        out = np.empty(stop - start, np.int64)
        for begin, end, lane, slot in self._stripes(start, stop):
            self._fill(out[begin - start : end - start], lane, slot)
        return out

    def shards_between(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Shards that positions [start, stop) may touch, in the order in which their windows begin, each once, int64.

        A window is read in any order, so every one of its shards with samples of its lane may be touched.
        """
        windows: list[tuple[int, npt.NDArray[np.int64]]] = []
        bounds = zip(self._slots_before(start).tolist(), self._slots_before(stop).tolist(), strict=True)
        for lane, (first, end) in enumerate(bounds):
            if first < end:
                windows += self._windows_between(lane, first, end)
        windows.sort(key=lambda window: window[0])
        joined = np.concatenate([shards for _, shards in windows]) if windows else np.empty(0, np.int64)
        _, first_seen = np.unique(joined, return_index=True)
        once: npt.NDArray[np.int64] = joined[np.sort(first_seen)]
        return once[self._plan.shard_kept[once] > 0]

    def _windows_between(self, lane: int, first: int, end: int) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """(first position read, shards) of each window of a lane that holds one of its slots [first, end)."""
        width, stripe, lanes = self._plan.order.window_shards, self._plan.order.stripe, self._plan.order.lanes
        piece, piece_end = int(self._lane_starts[lane]), int(self._lane_starts[lane + 1])
        origin, last = self._item_shard(lane, 0), self._item_shard(lane, piece_end - piece - 1)
        low = origin + (self._item_shard(lane, first) - origin) // width * width
        slot = first
        while low <= last and slot < end:
            rounds, inside = divmod(slot, stripe)
            yield (rounds * lanes + lane) * stripe + inside, self._shards[low : min(low + width, last + 1)]
            low += width
            slot = int(self._item_starts[min(low, last + 1)]) - piece

    def _cut_into_lanes(self) -> npt.NDArray[np.int64]:
        """First item of each lane's piece, int64 (L+1,)."""
        starts = np.zeros(self._plan.order.lanes + 1, np.int64)
        np.cumsum(self._slots_before(self.num_positions), out=starts[1:])
        return starts

    def _slots_before(self, position: int) -> npt.NDArray[np.int64]:
        """Number of positions before this one in each lane, int64 (L,)."""
        lanes, stripe = self._plan.order.lanes, self._plan.order.stripe
        rounds, rest = divmod(position, stripe * lanes)
        counts: npt.NDArray[np.int64] = np.clip(rest - np.arange(lanes, dtype=np.int64) * stripe, 0, stripe)
        counts += rounds * stripe
        return counts

    def _stripes(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """(first position, end, lane, first slot in the lane) of each stretch within one lane."""
        lanes, stripe = self._plan.order.lanes, self._plan.order.stripe
        if lanes == 1:
            if start < stop:
                yield start, stop, 0, start
            return
        while start < stop:
            number, inside = divmod(start, stripe)
            end = min(stop, start + stripe - inside)
            yield start, end, number % lanes, number // lanes * stripe + inside
            start = end

    def _item_shard(self, lane: int, slot: int) -> int:
        """Place in the shard order of the shard that holds item `slot` of a lane's piece."""
        item = self._lane_starts[lane] + slot
        return int(np.searchsorted(self._item_starts, item, side="right")) - 1

    def _fill(self, out: npt.NDArray[np.int64], lane: int, slot: int) -> None:
        """Slots [slot, slot + n) of a lane into `out` (n,)."""
        done = 0
        while done < len(out):
            first, last, samples = self._window(lane, slot + done)
            take = min(len(out) - done, last - slot - done)
            out[done : done + take] = samples[slot + done - first :][:take]
            done += take

    def _window(self, lane: int, slot: int) -> tuple[int, int, npt.NDArray[np.int64]]:
        """(first slot, end slot, sample indices in order) of the window that holds a slot of a lane."""
        known = self._windows.get(lane)
        if known is not None and known[0] <= slot < known[1]:
            return known
        width = self._plan.order.window_shards
        origin = self._item_shard(lane, 0)
        low = origin + (self._item_shard(lane, slot) - origin) // width * width
        high = min(low + width, len(self._shards))
        piece, piece_end = int(self._lane_starts[lane]), int(self._lane_starts[lane + 1])
        first = max(piece, int(self._item_starts[low]))
        last = min(piece_end, int(self._item_starts[high]))
        self._windows.pop(lane, None)  # frees its memory before the next is computed
        items = self._items(low, high)[first - int(self._item_starts[low]) :][: last - first]
        window = (first - piece, last - piece, items[self._permutation(low, high, first, last)])
        self._windows[lane] = window
        return window

    def _items(self, low: int, high: int) -> npt.NDArray[np.int64]:
        """Kept samples of the shards [low, high) of the shard order, in that order, int64."""
        shards = self._shards[low:high]
        starts, stops = self._offsets[shards], self._offsets[shards + 1]
        if high - low <= _LOOP_SHARDS or 8 * int((stops - starts).sum()) < self._plan.num_samples:
            bounds = zip(starts.tolist(), stops.tolist(), strict=True)
            return np.concatenate([self._plan.kept_between(start, stop) for start, stop in bounds])
        every = self._plan.kept_between(0, self._plan.num_samples)
        counts = self._plan.shard_kept[shards]
        before = (np.cumsum(self._plan.shard_kept) - self._plan.shard_kept)[shards]
        return every[_spans(before, counts)]

    def _permutation(self, low: int, high: int, first: int, last: int) -> npt.NDArray[np.int64]:
        """The order of items [first, last), which the shards [low, high) of the shard order hold, int64."""
        words = self._window_words.words(first, last)
        run = self._plan.order.run_samples
        if run == 1:
            return _sorted_numbers(words)
        edges = np.clip(self._item_starts[low : high + 1], first, last)
        counts = np.diff(edges)
        runs = -(-counts // run)
        starts = _spans(np.zeros(len(runs), np.int64), runs) * run + np.repeat(edges[:-1] - first, runs)
        lengths = np.minimum(run, np.repeat(edges[1:] - first, runs) - starts)
        order = _sorted_numbers(words[starts])
        return _spans(starts[order], lengths[order])


def _sorted_numbers(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Numbers 0 … n−1 in the order of their words, whose low 32 bits the numbers replace."""
    assert len(words) < 2**32
    keys = (words & _HIGH_32) | np.arange(len(words), dtype=np.uint64)
    keys.sort()
    numbers: npt.NDArray[np.int64] = (keys & _LOW_32).astype(np.int64)
    return numbers


def _spans(starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """start, start+1, … of each span, one after the other, int64 (Σ counts,)."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - counts), counts) + np.arange(total, dtype=np.int64)
