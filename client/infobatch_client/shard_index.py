"""The index of one shard: its samples' keys, and where the bytes of their members are.

Samples are formed as webdataset forms them: the key is the path up to the first dot of the file name, the
extension is the rest in lower case, consecutive files of one key are one sample, and files without an
extension or under `__name__` are not part of any.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infobatch_client.tar_scan import INLINE_BYTES, TarMembers
from infobatch_stream.errors import DuplicateKeyError, EmptyShardError, ShardChangedError, ShardError
from infobatch_stream.manifest import shard_fingerprint

__all__ = ["FORMAT_VERSION", "RESERVED_EXTENSIONS", "IndexHead", "IndexViews", "Layout", "ShardIndex", "split_name"]

FORMAT_VERSION = 1
RESERVED_EXTENSIONS = frozenset(
    {"__key__", "__url__", "__local_path__", "__index__", "__weight__", "__bad__"}
)
Layout = tuple[tuple[str, bool], ...]
"""What all samples of a shard have in common: (extension, whether it is kept inline) of each member."""

_SPLIT = re.compile(r"(?P<key>(?:.*/)?[^.]+)\.(?P<extension>[^/]*)\Z")
_SKIPPED = re.compile(r"__[^/]*__(?:/|$)")
_METADATA_KEY = b"infobatch_index"
_MEMBER_FIELDS = (
    ("extension", pa.uint16()),
    ("offset", pa.int64()),
    ("size", pa.int64()),
    ("inline", pa.binary()),
)
_SCHEMA = pa.schema([("key", pa.binary()), ("members", pa.list_(pa.struct(list(_MEMBER_FIELDS))))])


def split_name(name: str) -> tuple[str, str] | None:
    """Gives (key, extension) of a member, None if webdataset takes it for no sample's."""
    if name.startswith("__") and _SKIPPED.match(name):
        return None
    match = _SPLIT.match(name)
    return None if match is None else (match["key"], match["extension"].lower())


@dataclass(frozen=True)
class IndexHead:
    """What an index file says of itself, readable without its columns.

    Attributes:
        shard_bytes: size of the shard when it was indexed.
        mtime_ns: its modification time then, nanoseconds since 1970.
        fingerprint: shard fingerprint, 32 bytes.
        count: samples in the shard.
        extensions: what the extension codes stand for.
        layout: the members of every sample, None if samples differ in them.
    """

    shard_bytes: int
    mtime_ns: int
    fingerprint: bytes
    count: int
    extensions: tuple[str, ...]
    layout: Layout | None

    def to_metadata(self) -> dict[bytes, bytes]:
        """Arrow schema metadata that holds this head."""
        stated: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "shard_bytes": self.shard_bytes,
            "mtime_ns": self.mtime_ns,
            "fingerprint": self.fingerprint.hex(),
            "count": self.count,
            "extensions": self.extensions,
            "layout": self.layout,
        }
        return {_METADATA_KEY: json.dumps(stated).encode("ascii")}

    @classmethod
    def from_schema(cls, schema: pa.Schema) -> IndexHead | None:
        """Reads the head of an index file; None if it was written by another version or is none."""
        try:
            stated = json.loads((schema.metadata or {})[_METADATA_KEY])
            if stated["format_version"] != FORMAT_VERSION:
                return None
            layout = stated["layout"]
            return cls(
                shard_bytes=stated["shard_bytes"],
                mtime_ns=stated["mtime_ns"],
                fingerprint=bytes.fromhex(stated["fingerprint"]),
                count=stated["count"],
                extensions=tuple(stated["extensions"]),
                layout=None if layout is None else tuple((name, inline) for name, inline in layout),
            )
        except (KeyError, TypeError, ValueError):
            return None


class IndexViews(NamedTuple):
    """Columns of a `ShardIndex` as memoryviews, three times as fast as arrays to read one element of.

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
        head: fingerprint, count, extensions, and the shard's size and time.
        key_bounds: int32 (n + 1,), where each key begins in `key_bytes`.
        key_bytes: all keys, UTF-8 with surrogate escapes, one after the other.
        member_bounds: int32 (n + 1,), the first member of each sample.
        extension_codes: uint16 (m,), into `head.extensions`.
        offsets: int64 (m,), first data byte in the shard.
        sizes: int64 (m,), bytes.
        inline_bounds: int32 (m + 1,), where each inline member begins in `inline_bytes`.
        inline_bytes: the bytes of the inline members (those of at most 64 bytes), one after the other.
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

    @classmethod
    def from_members(cls, members: TarMembers, shard: str, *, shard_bytes: int, mtime_ns: int) -> ShardIndex:
        """Groups the regular files of a shard into samples.

        Args:
            members: the shard's files in tar order.
            shard: its name, for messages.
            shard_bytes: its size.
            mtime_ns: its modification time.

        Raises:
            EmptyShardError: no sample in it.
            DuplicateKeyError: an extension twice in a sample, or a key that comes again later in the shard.
            ShardError: an extension that a sample dict needs for itself, or too many members.
        """
        grouped = _Grouping(shard)
        for name, offset, size, inline in zip(
            members.names, members.data_offsets, members.sizes, members.inline, strict=True
        ):
            grouped.add(name, offset, size, inline)
        if not grouped.keys:
            raise EmptyShardError(
                f"{shard}: no sample in this shard (of {len(members.names)} files none is named key.extension); "
                "remove it from the list of shards, or check how it was written"
            )
        return grouped.index(shard_bytes, mtime_ns)

    @cached_property
    def views(self) -> IndexViews:
        """The columns for reading element by element."""
        is_ascii = self.key_bytes.isascii()
        return IndexViews(
            key_bounds=memoryview(self.key_bounds),
            key_text=self.key_bytes.decode("ascii") if is_ascii else None,
            member_bounds=memoryview(self.member_bounds),
            extension_codes=memoryview(self.extension_codes),
            offsets=memoryview(self.offsets),
            sizes=memoryview(self.sizes),
            inline_bounds=memoryview(self.inline_bounds),
        )

    def keys_of(self, samples: NDArray[np.int64]) -> list[str]:
        """The keys of samples, given by their positions in the shard, int64 (k,)."""
        begins, ends = self.key_bounds[samples].tolist(), self.key_bounds[samples + 1].tolist()
        text, spans = self.views.key_text, zip(begins, ends, strict=True)
        if text is not None:
            return [text[begin:end] for begin, end in spans]
        return [self.key_bytes[begin:end].decode("utf-8", "surrogateescape") for begin, end in spans]

    def inline_of(self, members: NDArray[np.int64]) -> list[bytes]:
        """The bytes of inline members, given by their numbers in the shard, int64 (k,)."""
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
        bounds, found = views.inline_bounds, []
        for member in range(views.member_bounds[sample], views.member_bounds[sample + 1]):
            size = views.sizes[member]
            found.append(
                (
                    extensions[views.extension_codes[member]],
                    views.offsets[member],
                    size,
                    self.inline_bytes[bounds[member] : bounds[member + 1]] if size <= INLINE_BYTES else None,
                )
            )
        return found

    def to_arrow(self) -> pa.RecordBatch:
        """One record batch: `key`, and `members`, a list of (extension code, offset, size, inline bytes)."""
        inline = pa.Array.from_buffers(
            pa.binary(),
            len(self.offsets),
            [
                pa.py_buffer(np.packbits(self.sizes <= INLINE_BYTES, bitorder="little")),
                pa.py_buffer(self.inline_bounds),
                pa.py_buffer(self.inline_bytes),
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
        """Reads what `to_arrow` made; number columns are views of its buffers, so a mapped file stays mapped.

        Raises:
            ShardChangedError: not an index of this version.
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
            inline_bytes=inline_bytes,
        )


class _Grouping:
    """Collects members into samples, in tar order."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.keys: list[str] = []
        self.first_members: list[int] = []
        self.records: list[tuple[str, str, int, int, bytes | None]] = []
        self.current: set[str] = set()

    def add(self, name: str, offset: int, size: int, inline: bytes | None) -> None:
        """Takes the next file of the shard."""
        parts = split_name(name)
        if parts is None:
            return
        key, extension = parts
        if not self.keys or key != self.keys[-1]:
            self.keys.append(key)
            self.first_members.append(len(self.records))
            self.current = set()
        if extension in self.current:
            raise DuplicateKeyError(
                f"{self.shard}: sample {key!r} has two members {extension!r} (the second at byte {offset}); "
                "write the shard again with one of them"
            )
        if extension in RESERVED_EXTENSIONS:
            raise ShardError(
                f"{self.shard}: member {name!r} would take the name {extension!r}, which every sample uses for "
                "itself; write the shard again with another extension"
            )
        self.current.add(extension)
        self.records.append((key, extension, offset, size, inline))

    def index(self, shard_bytes: int, mtime_ns: int) -> ShardIndex:
        """Makes columns of what was collected."""
        self.refuse_repeated_keys()
        extensions = tuple(sorted({record[1] for record in self.records}))
        if len(extensions) > 2**16:
            raise ShardError(
                f"{self.shard}: {len(extensions)} different extensions, of 65536 at most; the part of a file name "
                "behind its first dot is the extension, so names like 0.1234.jpg need another separator"
            )
        code_of = {extension: code for code, extension in enumerate(extensions)}
        encoded = [key.encode("utf-8", "surrogateescape") for key in self.keys]
        kept = [record[4] for record in self.records]
        index = ShardIndex(
            head=IndexHead(
                shard_bytes=shard_bytes,
                mtime_ns=mtime_ns,
                fingerprint=shard_fingerprint(self.records),
                count=len(self.keys),
                extensions=extensions,
                layout=self.layout(),
            ),
            key_bounds=self.bounds([len(key) for key in encoded]),
            key_bytes=b"".join(encoded),
            member_bounds=np.array([*self.first_members, len(self.records)], dtype=np.int32),
            extension_codes=np.array([code_of[record[1]] for record in self.records], dtype=np.uint16),
            offsets=np.array([record[2] for record in self.records], dtype=np.int64),
            sizes=np.array([record[3] for record in self.records], dtype=np.int64),
            inline_bounds=self.bounds([len(data) if data is not None else 0 for data in kept]),
            inline_bytes=b"".join(data for data in kept if data is not None),
        )
        return index

    def bounds(self, lengths: list[int]) -> NDArray[np.int32]:
        """Where pieces of these lengths begin, one after the other; int32 (len + 1,)."""
        ends = np.cumsum(np.array([0, *lengths], dtype=np.int64))
        if int(ends[-1]) >= 2**31:
            raise ShardError(
                f"{self.shard}: keys or small members of {int(ends[-1])} bytes in one shard, of 2 GiB at most; "
                "split the shard"
            )
        return ends.astype(np.int32)

    def layout(self) -> Layout | None:
        """The members that every sample has, None if they differ."""
        width = len(self.records) // len(self.keys)
        if width * len(self.keys) != len(self.records):
            return None
        if self.first_members != list(range(0, len(self.records), width)):
            return None
        kinds = [(record[1], record[4] is not None) for record in self.records]
        if kinds != kinds[:width] * len(self.keys):
            return None
        return tuple(kinds[:width])

    def refuse_repeated_keys(self) -> None:
        if len(set(self.keys)) == len(self.keys):
            return
        seen: dict[str, int] = {}
        for number, key in enumerate(self.keys):
            if key in seen:
                raise DuplicateKeyError(
                    f"{self.shard}: key {key!r} comes twice, as sample {seen[key]} and again as sample {number} (at "
                    f"byte {self.records[self.first_members[number]][2]}); files of one sample must follow each "
                    "other, so write the shard sorted by name, with every key once"
                )
            seen[key] = number


def _binary_parts(column: pa.BinaryArray) -> tuple[NDArray[np.int32], bytes]:
    """Bounds and bytes of a binary column; the bytes are copied, slicing them must be fast."""
    _, bounds, data = column.buffers()
    view = np.frombuffer(bounds, dtype=np.int32, count=len(column) + 1)
    return view, b"" if data is None else data.slice(0, int(view[-1])).to_pybytes()
