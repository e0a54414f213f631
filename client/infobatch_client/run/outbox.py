"""The scores and messages that wait to be sent: in order, coalesced, and bounded by the data set. No thread, no rpc."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from infobatch_stream.errors import ConfigError
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["ControlMessage", "Outbox", "Push"]

_RECORDS_PER_PUSH = 16_384
_NO_SAMPLES = np.empty(0, np.int64)

ControlMessage: TypeAlias = pb.EndEpochRequest | pb.MarkUnprunedRequest


@dataclass(frozen=True, eq=False)
class Push:
    """Scores that are sent together; never changed, so that a repeated push has the same bytes.

    Args:
        sequence: from 1, in the order of pushes.
        epoch: in which the scores were trained.
        index: int64 (n,), each sample once.
        scores: float32 (n,).
        columns: by name, each (n,) of the policy's dtype; sorted by name.
        dropped: int64 (m,), samples that the pipeline dropped, each once.
    """

    sequence: int
    epoch: int
    index: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    columns: Mapping[str, npt.NDArray[Any]]
    dropped: npt.NDArray[np.int64] = field(default_factory=lambda: _NO_SAMPLES)


class _Drops(NamedTuple):
    epoch: int
    samples: npt.NDArray[np.int64]


class _Batch(NamedTuple):
    """A batch as it was put: scores and columns are filled once `ready` says so."""

    epoch: int
    samples: npt.NDArray[np.int64]
    scores: torch.Tensor
    columns: Sequence[npt.NDArray[Any]]
    ready: Any
    since_s: float

    @property
    def records(self) -> int:
        return int(np.count_nonzero(self.samples >= 0))


@dataclass
class _Segment:
    """Records of one epoch between two control messages: index, scores, then columns. Of a sample the newest wins.

    Beside them, the samples that were dropped in the epoch.
    """

    epoch: int
    parts: list[tuple[npt.NDArray[Any], ...]] = field(default_factory=list)
    records: int = 0
    coalesced: int = 0
    drops: list[npt.NDArray[np.int64]] = field(default_factory=list)
    num_drops: int = 0

    def add(self, batch: _Batch) -> None:
        is_real = batch.samples >= 0
        self.parts.append(tuple(values[is_real] for values in (batch.samples, batch.scores.numpy(), *batch.columns)))
        self.records += int(np.count_nonzero(is_real))
        if self.records > max(_RECORDS_PER_PUSH, 2 * self.coalesced):
            self._coalesce()

    def add_drops(self, samples: npt.NDArray[np.int64]) -> None:
        self.drops.append(samples)
        self.num_drops += len(samples)
        if self.num_drops > max(_RECORDS_PER_PUSH, 2 * len(self.drops[0])):
            self._unite_drops()

    def take_drops(self, count: int) -> npt.NDArray[np.int64]:
        """Removes up to `count` dropped samples."""
        if not self.drops:
            return _NO_SAMPLES
        taken = self._unite_drops()[:count]
        self.drops = [self.drops[0][count:]]
        self.num_drops = len(self.drops[0])
        return taken

    def take(self, count: int) -> tuple[npt.NDArray[Any], ...]:
        """Removes up to `count` records."""
        self._coalesce()
        arrays = self.parts[0]
        self.parts = [tuple(values[count:] for values in arrays)]
        self.records = self.coalesced = len(self.parts[0][0])
        return tuple(values[:count] for values in arrays)

    def _unite_drops(self) -> npt.NDArray[np.int64]:
        self.drops = [np.unique(np.concatenate(self.drops))]
        self.num_drops = len(self.drops[0])
        return self.drops[0]

    def _coalesce(self) -> None:
        if self.records == self.coalesced and len(self.parts) == 1:
            return
        arrays = [np.concatenate(parts) for parts in zip(*self.parts, strict=True)]
        index = arrays[0]
        _, last = np.unique(index[::-1], return_index=True)
        newest = np.sort(len(index) - 1 - last)
        self.parts = [tuple(values[newest] for values in arrays)]
        self.records = self.coalesced = len(newest)


class Outbox:
    """A queue of scores and control messages, read in the order in which they were put.

    `put_scores` and `put_message` may be called from one thread and everything else from another. Of a sample's
    scores within an epoch only the newest is kept, so that an outage costs at most the memory of the whole data set
    per open epoch.

    Args:
        columns: name and dtype of each column that is pushed beside the score.
    """

    def __init__(self, columns: Mapping[str, npt.DTypeLike] | None = None) -> None:
        self._columns = {name: np.dtype(dtype) for name, dtype in sorted((columns or {}).items())}
        self._arrivals: deque[_Batch | _Drops | ControlMessage] = deque()
        self._queue: deque[_Segment | ControlMessage] = deque()
        self._push: Push | None = None
        self._sequence = 0
        self.oldest_s: float | None = None
        """Since when the oldest score has been waiting; None if none is."""

    def put_scores(
        self,
        epoch: int,
        index: npt.NDArray[np.int64],
        scores: torch.Tensor,
        *,
        ready: Any = None,
        columns: Mapping[str, torch.Tensor] | None = None,
        now_s: float,
    ) -> None:
        """Adds the scores (B,) of samples (B,); rows with index −1 are left out. Cheap; copies nothing.

        Args:
            epoch: in which they were trained.
            index: int64 (B,).
            scores: float32 (B,) in host memory, never changed afterwards.
            ready: a CUDA event after which `scores` and `columns` are filled, or None.
            columns: (B,) each, in host memory, by the names of the policy's columns.
            now_s: the time, for `oldest_s`.

        Raises:
            ConfigError: other columns than the policy's, or values that don't fit their dtype.
        """
        arrays = self._column_arrays(columns or {}, len(index)) if columns or self._columns else ()
        self._arrivals.append(_Batch(epoch, index, scores, arrays, ready, now_s))

    def put_dropped(self, epoch: int, samples: npt.NDArray[np.int64]) -> None:
        """Adds samples (n,) that the pipeline dropped in an epoch; never changed afterwards. Cheap; copies nothing."""
        self._arrivals.append(_Drops(epoch, samples))

    def put_message(self, message: ControlMessage) -> None:
        """Adds a control message behind everything that was put before it."""
        self._arrivals.append(message)

    def collect(self) -> None:
        """Takes in the batches that are filled, up to the first that isn't."""
        while self._arrivals:
            item = self._arrivals[0]
            if isinstance(item, _Batch):
                if item.ready is not None and not item.ready.query():
                    return
                self._segment(item.epoch).add(item)
                if self.oldest_s is None:
                    self.oldest_s = item.since_s
            elif isinstance(item, _Drops):
                self._segment(item.epoch).add_drops(item.samples)
            else:
                self._queue.append(item)
            self._arrivals.popleft()

    def next(self) -> Push | ControlMessage | None:
        """The first item, the same one until `done`; None if nothing that was collected is left."""
        while self._push is None and self._queue:
            item = self._queue[0]
            if not isinstance(item, _Segment):
                return item
            if item.records or item.num_drops:
                self._push = self._freeze(item)
            else:
                self._queue.popleft()
        if self._push is None:
            self.oldest_s = None
        return self._push

    def done(self) -> None:
        """Removes the item that `next` returned."""
        if self._push is not None:
            self._push = None
        else:
            self._queue.popleft()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits any more, collected or not."""
        return not (self._arrivals or self._queue or self._push is not None)

    @property
    def records(self) -> int:
        """Scores that wait; of those not yet collected, repeats count too."""
        queued = sum(item.records for item in list(self._queue) if isinstance(item, _Segment))
        arrived = sum(item.records for item in list(self._arrivals) if isinstance(item, _Batch))
        push = self._push
        return queued + arrived + (len(push.index) if push is not None else 0)

    def _segment(self, epoch: int) -> _Segment:
        last = self._queue[-1] if self._queue else None
        if isinstance(last, _Segment) and last.epoch == epoch:
            return last
        segment = _Segment(epoch)
        self._queue.append(segment)
        return segment

    def _freeze(self, segment: _Segment) -> Push:
        index, scores, *columns = segment.take(_RECORDS_PER_PUSH) if segment.records else self._no_records()
        self._sequence += 1
        arrays = {
            name: values.astype(dtype, copy=False)
            for (name, dtype), values in zip(self._columns.items(), columns, strict=True)
        }
        dropped = segment.take_drops(_RECORDS_PER_PUSH)
        return Push(self._sequence, segment.epoch, index, scores, arrays, dropped)

    def _no_records(self) -> tuple[npt.NDArray[Any], ...]:
        return (_NO_SAMPLES, np.empty(0, np.float32), *(np.empty(0, dtype) for dtype in self._columns.values()))

    def _column_arrays(self, columns: Mapping[str, torch.Tensor], rows: int) -> list[npt.NDArray[Any]]:
        """The columns as arrays (B,), in the order of their names."""
        if columns.keys() != self._columns.keys():
            raise ConfigError(
                f"columns {sorted(columns)} were passed, and the run's policy needs {list(self._columns)}: pass all of "
                "them, as in loader.update(losses, columns={name: tensor})"
            )
        arrays = []
        for name, dtype in self._columns.items():
            values = columns[name].numpy()
            if values.shape != (rows,) or not np.can_cast(values.dtype, dtype, "same_kind"):
                raise ConfigError(
                    f"column {name} has shape {values.shape} and dtype {values.dtype}; the policy needs ({rows},) "
                    f"of {dtype}"
                )
            arrays.append(values)
        return arrays
