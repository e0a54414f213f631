"""The index of one shard: the keys of its samples, and the offsets and sizes of their members."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infobatch_client.shards.stamp import Stamp
from infobatch_client.shards.tar_scan import INLINE_BYTES
from infobatch_stream.errors import ShardChangedError

__all__ = ["END_OF_INLINE", "FORMAT_VERSION", "IndexHead", "IndexViews", "Layout", "ShardIndex"]

FORMAT_VERSION = 2
END_OF_INLINE = b"\0"
Layout = tuple[tuple[str, bool], ...]
"""The members that every sample of a shard has, in tar order: (extension, whether the index holds its bytes)."""

_METADATA_KEY = b"infobatch_index"
_MEMBER_FIELDS = (
    ("extension", pa.uint16()),
    ("offset", pa.int64()),
    ("size", pa.int64()),
    ("inline", pa.binary()),
)
_SCHEMA = pa.schema([("key", pa.binary()), ("members", pa.list_(pa.struct(list(_MEMBER_FIELDS))))])


@dataclass(frozen=True)
class IndexHead:
    """The head of an index file, readable without its columns.

    Attributes:
        shard_bytes: size of the shard when it was indexed.
        stamps: of the files that were found to have these contents, the latest first; at least one.
        fingerprint: shard fingerprint, 32 bytes.
        count: samples in the shard.
        extensions: the extension of each extension code.
        layout: the members of every sample, None if samples have different members.
    """

    shard_bytes: int
    stamps: tuple[Stamp, ...]
    fingerprint: bytes
    count: int
    extensions: tuple[str, ...]
    layout: Layout | None

    def is_of(self, shard_bytes: int, stamp: Stamp) -> bool:
        """Whether a shard of this size and with this stamp is known to have these contents."""
        return shard_bytes == self.shard_bytes and any(stamp.is_same_file(known) for known in self.stamps)

    def to_metadata(self) -> dict[bytes, bytes]:
        """This head as Arrow schema metadata."""
        fields: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "shard_bytes": self.shard_bytes,
            "stamps": self.stamps,
            "fingerprint": self.fingerprint.hex(),
            "count": self.count,
            "extensions": self.extensions,
            "layout": self.layout,
        }
        return {_METADATA_KEY: json.dumps(fields).encode("ascii")}

    @classmethod
    def from_schema(cls, schema: pa.Schema) -> IndexHead | None:
        """Reads the head of an index file; None if another version wrote it, or it is not an index file."""
        try:
            fields = json.loads((schema.metadata or {})[_METADATA_KEY])
            if fields["format_version"] != FORMAT_VERSION:
                return None
            layout = fields["layout"]
            return cls(
                shard_bytes=fields["shard_bytes"],
                stamps=tuple(Stamp(*stamp) for stamp in fields["stamps"]),
                fingerprint=bytes.fromhex(fields["fingerprint"]),
                count=fields["count"],
                extensions=tuple(fields["extensions"]),
                layout=None if layout is None else tuple((name, inline) for name, inline in layout),
            )
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class IndexViews:
    """Columns of a `ShardIndex` as memoryviews: reading one element is three times as fast as from an array.

    Attributes:
        key_text: `key_bytes` as text if it is ASCII, else None.
    """

    key_bounds: memoryview[int]
    key_text: str | None
    member_bounds: memoryview[int]
    extension_codes: memoryview[int]
    offsets: memoryview[int]
    sizes: memoryview[int]
    inline_bounds: memoryview[int]


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard: n of them, with m members in all.

    Attributes:
        head: fingerprint, count, extensions, and the shard's size and stamps.
        key_bounds: int32 (n + 1,), offset of each key in `key_bytes`.
        key_bytes: all keys, concatenated; UTF-8 with surrogate escapes.
        member_bounds: int32 (n + 1,), number of each sample's first member.
        extension_codes: uint16 (m,), positions in `head.extensions`.
        offsets: int64 (m,), first data byte in the shard.
        sizes: int64 (m,), bytes.
        inline_bounds: int32 (m + 1,), offset of each inline member in `inline_bytes`.
        inline_bytes: the bytes of the inline members (those of at most 64 bytes), concatenated; then one byte more, so
            that no member is this object itself, which users could write into: CPython doesn't copy a slice of all.
    """

    head: IndexHead
    key_bounds: NDArray[np.int32]
    key_bytes: bytes
    member_bounds: NDArray[np.int32]
    extension_codes: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    inline_bounds: NDArray[np.int32]
    inline_bytes: bytes

    @cached_property
    def views(self) -> IndexViews:
        """The columns as memoryviews, for reading single elements."""
        is_ascii = self.key_bytes.isascii()
        return IndexViews(
            key_bounds=self.key_bounds.data,
            key_text=self.key_bytes.decode("ascii") if is_ascii else None,
            member_bounds=self.member_bounds.data,
            extension_codes=self.extension_codes.data,
            offsets=self.offsets.data,
            sizes=self.sizes.data,
            inline_bounds=self.inline_bounds.data,
        )

    def keys_of(self, samples: NDArray[np.int64]) -> list[str]:
        """The keys of the samples at these positions in the shard, int64 (k,)."""
        begins, ends = self.key_bounds[samples].tolist(), self.key_bounds[samples + 1].tolist()
        text, spans = self.views.key_text, zip(begins, ends, strict=True)
        if text is not None:
            return [text[begin:end] for begin, end in spans]
        return [self.key_bytes[begin:end].decode("utf-8", "surrogateescape") for begin, end in spans]

    def inline_of(self, members: NDArray[np.int64]) -> list[bytes]:
        """The bytes of the inline members with these numbers in the shard, int64 (k,)."""
        begins, ends = self.inline_bounds[members].tolist(), self.inline_bounds[members + 1].tolist()
        data = self.inline_bytes
        return [data[begin:end] for begin, end in zip(begins, ends, strict=True)]

    def key(self, sample: int) -> str:
        """The key of the sample at a position in the shard."""
        views = self.views
        begin, end = views.key_bounds[sample], views.key_bounds[sample + 1]
        if views.key_text is not None:
            return views.key_text[begin:end]
        return self.key_bytes[begin:end].decode("utf-8", "surrogateescape")

    @property
    def keys(self) -> list[str]:
        """All keys, in tar order."""
        return self.keys_of(np.arange(self.head.count, dtype=np.int64))

    def members(self, sample: int) -> list[tuple[str, int, int, bytes | None]]:
        """(extension, data offset, size, inline bytes or None) of the members of one sample, in tar order."""
        views, extensions = self.views, self.head.extensions
        bounds, members = views.inline_bounds, []
        for member in range(views.member_bounds[sample], views.member_bounds[sample + 1]):
            size = views.sizes[member]
            members.append(
                (
                    extensions[views.extension_codes[member]],
                    views.offsets[member],
                    size,
                    self.inline_bytes[bounds[member] : bounds[member + 1]] if size <= INLINE_BYTES else None,
                )
            )
        return members

    def to_arrow(self) -> pa.RecordBatch:
        """One record batch: `key`, and `members`, a list of (extension code, offset, size, inline bytes)."""
        inline = pa.Array.from_buffers(
            pa.binary(),
            len(self.offsets),
            [
                pa.py_buffer(np.packbits(self.sizes <= INLINE_BYTES, bitorder="little")),
                pa.py_buffer(self.inline_bounds),
                pa.py_buffer(memoryview(self.inline_bytes)[: int(self.inline_bounds[-1])]),
            ],
        )
        columns = [pa.array(self.extension_codes), pa.array(self.offsets), pa.array(self.sizes), inline]
        structs = pa.StructArray.from_arrays(columns, [name for name, _ in _MEMBER_FIELDS])
        keys = pa.Array.from_buffers(
            pa.binary(),
            self.head.count,
            [None, pa.py_buffer(self.key_bounds), pa.py_buffer(self.key_bytes)],
        )
        members = pa.ListArray.from_arrays(pa.array(self.member_bounds), structs)
        return pa.RecordBatch.from_arrays([keys, members], schema=_SCHEMA.with_metadata(self.head.to_metadata()))

    @classmethod
    def from_arrow(cls, batch: pa.RecordBatch) -> ShardIndex:
        """Reads the result of `to_arrow`; number columns are views of its buffers, so a mapped file stays mapped.

        Raises:
            ShardChangedError: the batch is not an index of this version.
        """
        head = IndexHead.from_schema(batch.schema)
        if head is None or not batch.schema.equals(_SCHEMA) or batch.num_rows != head.count:
            raise ShardChangedError("not an index file of this version; run `infobatch index --force`")
        keys, members = batch.column(0), batch.column(1)
        codes, offsets, sizes, inline = members.values.flatten()
        key_bounds, key_bytes = _binary_parts(keys)
        inline_bounds, inline_bytes = _binary_parts(inline)
        return cls(
            head=head,
            key_bounds=key_bounds,
            key_bytes=key_bytes,
            member_bounds=members.offsets.to_numpy(),
            extension_codes=codes.to_numpy(),
            offsets=offsets.to_numpy(),
            sizes=sizes.to_numpy(),
            inline_bounds=inline_bounds,
            inline_bytes=inline_bytes + END_OF_INLINE,
        )


def _binary_parts(column: pa.BinaryArray) -> tuple[NDArray[np.int32], bytes]:
    """Bounds and bytes of a binary column; the bytes are copied, because slicing them must be fast."""
    _, bounds, data = column.buffers()
    view = np.frombuffer(bounds, dtype=np.int32, count=len(column) + 1)
    return view, b"" if data is None else data.slice(0, int(view[-1])).to_pybytes()
