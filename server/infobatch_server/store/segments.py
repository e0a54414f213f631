"""Segments: parts of a run's table as Arrow files, each with the last journal entry that is in it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from infobatch_server.store.files import Files, write_file
from infobatch_stream.errors import ServerError
from infobatch_stream.scores.table import ScoreTable

__all__ = ["Capture", "Captured", "Segment", "read_segment", "segment_path", "write_segment"]

_SUFFIX = ".arrow"


@dataclass(frozen=True, eq=False, kw_only=True)
class Captured:
    """A consistent copy of a part of a run's table.

    Args:
        part: the samples' scores, stamps, visits, columns, and which of them are dropped.
        entry: the last entry of the run's journal that is in it.
        position: the last push, by its position.
        stored: scores that the run had accepted by then, in all of its table.
        rejected: NaN and infinite scores by then.
    """

    part: ScoreTable
    entry: int
    position: int
    stored: int
    rejected: int


Capture = Callable[[int, int], Captured]
"""Copies the samples [first, stop) under the lock that changes to the table hold."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A saved segment, without its scores."""

    entry: int
    position: int
    stored: int
    rejected: int
    crc32: int


def segment_path(folder: Path, segment: int, entry: int) -> Path:
    """The file of a segment that was saved after an entry."""
    return folder / f"scores-{segment}-{entry}{_SUFFIX}"


def write_segment(files: Files, path: Path, captured: Captured) -> Segment:
    """Writes a segment; it is on the disk when this returns.

    Raises:
        OSError: it could not be written.
    """
    part = captured.part
    table = part.to_arrow().append_column("dropped", pa.array(part.dropped[:]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = memoryview(sink.getvalue())
    write_file(files, path, (data,))
    return Segment(
        entry=captured.entry,
        position=captured.position,
        stored=captured.stored,
        rejected=captured.rejected,
        crc32=zlib.crc32(data),
    )


def read_segment(path: Path, crc32: int, table: ScoreTable, first: int) -> None:
    """Reads a segment's samples into a table, from sample `first` on.

    Raises:
        ServerError: the file is missing, damaged, or of another run.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ServerError(f"{path} can't be read: {error.strerror}; {_RESTORE}") from error
    if zlib.crc32(data) != crc32:
        raise ServerError(f"{path} is damaged: its checksum differs from the one that was written; {_RESTORE}")
    saved = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    part = slice(first, first + saved.num_rows)
    for name, values in table.arrays().items():
        values[part] = saved[name].combine_chunks().to_numpy(zero_copy_only=True)
    dropped = np.flatnonzero(saved["dropped"].combine_chunks().to_numpy(zero_copy_only=False))
    table.dropped.add(dropped + first)


_RESTORE = "put the whole data directory back from a copy, or delete the run by removing its folder"
