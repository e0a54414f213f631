"""The entries of a run's journal: what each holds as bytes, and what it does to the table, segment by segment.

A segment that was saved later than an entry has it already: applying it again would count visits twice, and fold it
twice into columns. So each entry is applied to the segments that are behind it, and to no other sample.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from infobatch_server.state.score_batch import ScoreBatch
from infobatch_stream.scores.columns import PushedColumn
from infobatch_stream.scores.table import ScoreTable, UpdateCounts

__all__ = ["Behind", "Entry", "Forget", "Import", "Push", "Rewind", "decode", "encode"]

_PUSH = struct.Struct("<IIQ16sIII")  # generation, epoch, sequence, client id, records, dropped, bytes of an index
_IMPORT = struct.Struct("<QQ?")  # first sample, samples, with stamps
_REWIND = struct.Struct("<I")
_NARROW = 2**32


@dataclass(frozen=True, eq=False)
class Behind:
    """The segments that lack an entry.

    Args:
        segments: bool (number of segments,).
        samples: samples of a segment, but for the last one.
    """

    segments: npt.NDArray[np.bool_]
    samples: int

    def of(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether each sample's segment is one of them, bool (n,)."""
        mask: npt.NDArray[np.bool_] = self.segments[indices // self.samples]
        return mask

    def parts(self, first: int, stop: int) -> list[slice]:
        """The samples of [first, stop) that are in such a segment."""
        inside = range(first // self.samples, -(-stop // self.samples))
        bounds = (
            (segment * self.samples, (segment + 1) * self.samples) for segment in inside if self.segments[segment]
        )
        return [slice(max(first, low), min(stop, high)) for low, high in bounds]


@dataclass(frozen=True, eq=False)
class Push:
    """The scores of a push, and the samples that the pipeline dropped."""

    batch: ScoreBatch

    def touched(self) -> npt.NDArray[np.int64]:
        """The samples that it may change."""
        batch = self.batch
        return batch.indices if batch.dropped is None else np.concatenate([batch.indices, batch.dropped])

    def apply(self, table: ScoreTable, behind: Behind) -> UpdateCounts:
        """Drops samples, then stores scores, which take their samples back."""
        batch = self.batch
        if batch.dropped is not None:
            table.dropped.add(batch.dropped[behind.of(batch.dropped)])
        chosen = behind.of(batch.indices)
        columns = {name: values[chosen] for name, values in batch.columns.items()}
        return table.update(batch.epoch, batch.indices[chosen], batch.scores[chosen], columns)


@dataclass(frozen=True, eq=False)
class Import:
    """Scores of consecutive samples that were imported."""

    first: int
    scores: npt.NDArray[np.float32]
    stamps: npt.NDArray[np.uint16] | None

    def apply(self, table: ScoreTable, behind: Behind) -> UpdateCounts:
        """Puts the scores into the table; none of them counts as stored by a job."""
        for part in behind.parts(self.first, self.first + len(self.scores)):
            there = slice(part.start - self.first, part.stop - self.first)
            stamps = None if self.stamps is None else self.stamps[there]
            table.import_scores(part.start, self.scores[there], stamps)
        return UpdateCounts()


@dataclass(frozen=True)
class Rewind:
    """A job that attached at the start of an epoch, or inside it."""

    stamps_to: int

    def apply(self, table: ScoreTable, behind: Behind) -> UpdateCounts:
        """Lowers stamps."""
        for part in behind.parts(0, table.num_samples):
            table.lower_stamps(self.stamps_to, part)
        return UpdateCounts()


@dataclass(frozen=True)
class Forget:
    """The dropped samples were forgotten."""

    def apply(self, table: ScoreTable, behind: Behind) -> UpdateCounts:
        """Takes all dropped samples back."""
        for part in behind.parts(0, table.num_samples):
            table.dropped.discard(np.flatnonzero(table.dropped[part]) + part.start)
        return UpdateCounts()


Entry = Push | Import | Rewind | Forget
_KINDS: tuple[type[Entry], ...] = (Push, Import, Rewind, Forget)


def encode(entry: Entry, num_samples: int) -> tuple[int, bytes]:
    """An entry as (kind, bytes)."""
    kind = _KINDS.index(type(entry))
    if isinstance(entry, Push):
        return kind, _encode_push(entry.batch, num_samples)
    if isinstance(entry, Import):
        stamps = entry.stamps
        head = _IMPORT.pack(entry.first, len(entry.scores), stamps is not None)
        tail = b"" if stamps is None else _little(stamps)
        return kind, b"".join((head, _little(entry.scores), tail))
    if isinstance(entry, Rewind):
        return kind, _REWIND.pack(entry.stamps_to)
    return kind, b""


def decode(kind: int, data: bytes, columns: Sequence[PushedColumn]) -> Entry:
    """The entry of a kind and its bytes.

    Args:
        kind: as `encode` gave it.
        data: the same.
        columns: those that are pushed in this run.
    """
    if kind == 0:
        return _decode_push(_Reader(data), columns)
    if kind == 1:
        reader = _Reader(data)
        first, count, has_stamps = reader.unpack(_IMPORT)
        scores = reader.array("float32", count)
        return Import(first, scores, reader.array("uint16", count) if has_stamps else None)
    return Rewind(*_REWIND.unpack(data)) if kind == 2 else Forget()


def _encode_push(batch: ScoreBatch, num_samples: int) -> bytes:
    dtype = np.dtype("<u4" if num_samples <= _NARROW else "<i8")
    dropped = np.empty(0, np.int64) if batch.dropped is None else batch.dropped
    head = _PUSH.pack(
        *(batch.generation, batch.epoch, batch.sequence, batch.client_id),
        *(len(batch.indices), len(dropped), dtype.itemsize),
    )
    indices, gone = batch.indices.astype(dtype).data, dropped.astype(dtype).data
    columns = [_little(batch.columns[name]) for name in sorted(batch.columns)]
    return b"".join((head, indices, gone, _little(batch.scores), *columns))


def _decode_push(reader: _Reader, columns: Sequence[PushedColumn]) -> Push:
    generation, epoch, sequence, client_id, count, num_dropped, itemsize = reader.unpack(_PUSH)
    dtype = "uint32" if itemsize == 4 else "int64"
    indices = reader.array(dtype, count).astype(np.int64)
    dropped = reader.array(dtype, num_dropped).astype(np.int64) if num_dropped else None
    scores = reader.array("float32", count)
    by_name = sorted(columns, key=lambda column: column.name)
    values = {column.name: reader.array(column.dtype, count) for column in by_name}
    return Push(ScoreBatch(generation, client_id, sequence, epoch, indices, scores, values, dropped))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        values = layout.unpack_from(self._data, self._place)
        self._place += layout.size
        return values

    def array(self, dtype: str, count: int) -> npt.NDArray[Any]:
        little = np.dtype(dtype).newbyteorder("<")
        values = np.frombuffer(self._data, little, count, self._place)
        self._place += values.nbytes
        return values.astype(dtype, copy=False)


def _little(values: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data
