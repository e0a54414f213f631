"""Groups the files of a shard into samples, as webdataset does, and indexes them.

The key is the path up to the first dot of the file name; the extension is the rest, in lower case. Consecutive
files with the same key form one sample. Files without an extension or under `__name__` belong to no sample.
Links count as the files that they stand for; webdataset leaves them out.
A shard from which webdataset would form two samples with one key, or fail, raises an error here.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from infobatch_client.shards.index import END_OF_INLINE, IndexHead, Layout, ShardIndex
from infobatch_client.shards.links import resolve_links
from infobatch_client.shards.stamp import Stamp
from infobatch_client.shards.tar_scan import OddMember, TarMembers
from infobatch_stream.errors import DuplicateKeyError, EmptyShardError, ShardError
from infobatch_stream.manifest import shard_fingerprint

__all__ = ["RESERVED_EXTENSIONS", "index_members", "split_name"]

RESERVED_EXTENSIONS = frozenset({"__key__", "__url__", "__local_path__", "__index__", "__weight__", "__bad__"})
"""Extensions that members can't have: they are keys of every sample, or make webdataset drop the sample."""

_SPLIT = re.compile(r"(?P<key>(?:.*/)?[^.]+)\.(?P<extension>[^/]*)\Z")
_SKIPPED = re.compile(r"__[^/]*__(?:/|$)")


def split_name(name: str) -> tuple[str, str] | None:
    """Returns (key, extension) of a member, None if webdataset assigns it to no sample."""
    if name.startswith("__") and _SKIPPED.match(name):
        return None
    match = _SPLIT.match(name)
    return None if match is None else (match[1], match[2].lower())


def index_members(members: TarMembers, shard: str, *, shard_bytes: int, stamp: Stamp) -> ShardIndex:
    """Groups the regular files of a shard into samples.

    Args:
        members: the shard's files in tar order.
        shard: the shard's name, for messages.
        shard_bytes: the shard's size.
        stamp: the shard's stamp.

    Raises:
        EmptyShardError: the shard has no sample.
        DuplicateKeyError: a sample has two members with one extension, or two samples have the same key.
        ShardError: an extension is reserved, there are more than 65,536 extensions, or a member of a sample is a
            link to something that isn't in the shard.
    """
    grouped = _Grouping(shard)
    rows = list(zip(members.names, members.data_offsets, members.sizes, members.inline, strict=True))
    number = 0
    for link, target in resolve_links(members):
        for row in rows[number : link.num_before]:
            grouped.add(*row)
        number = link.num_before
        grouped.add_link(link, rows[target][1:] if isinstance(target, int) else target)
    for row in rows[number:]:
        grouped.add(*row)
    if not grouped.keys:
        raise EmptyShardError(
            f"{shard}: no sample in this shard: none of its {len(members.names)} files is named "
            "key.extension; remove it from the list of shards, or check how it was written"
        )
    return grouped.index(shard_bytes, stamp)


class _Grouping:
    """Collects members into samples, in tar order."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.keys: list[str] = []
        self.first_members: list[int] = []
        self.records: list[tuple[str, str, int, int, bytes | None]] = []
        self.current: set[str] = set()
        self.reads_elsewhere = False

    def add(self, name: str, offset: int, size: int, inline: bytes | None) -> None:
        """Adds the next file of the shard."""
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
                "write the shard again with only one of them"
            )
        if extension in RESERVED_EXTENSIONS:
            raise ShardError(
                f"{self.shard}: member {name!r} has the reserved extension {extension!r}; write the shard again "
                "with another extension"
            )
        self.current.add(extension)
        self.records.append((key, extension, offset, size, inline))

    def add_link(self, link: OddMember, target: tuple[int, int, bytes | None] | str | None) -> None:
        """Adds the file that a link stands for; or the reason why there is none, or None if it is no file."""
        if target is None or split_name(link.name) is None:
            return
        if isinstance(target, str):
            raise ShardError(
                f"{self.shard}: member {link.name!r} at byte {link.header_at} {target}, so its sample would lack it; "
                "write the shard again with a file in its place (of links: tar --dereference --hard-dereference)"
            )
        self.reads_elsewhere |= target[2] is None
        self.add(link.name, *target)

    def index(self, shard_bytes: int, stamp: Stamp) -> ShardIndex:
        """Builds the index from the collected members."""
        self.refuse_repeated_keys()
        extensions = tuple(sorted({record[1] for record in self.records}))
        if len(extensions) > 2**16:
            raise ShardError(
                f"{self.shard}: {len(extensions)} different extensions; at most 65536 are allowed. The extension "
                "is everything after the first dot of a file name, so names like 0.1234.jpg need another separator"
            )
        code_of = {extension: code for code, extension in enumerate(extensions)}
        encoded = [key.encode("utf-8", "surrogateescape") for key in self.keys]
        inline = [record[4] for record in self.records]
        return ShardIndex(
            head=IndexHead(
                shard_bytes=shard_bytes,
                stamps=(stamp,),
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
            inline_bounds=self.bounds([len(data) if data is not None else 0 for data in inline]),
            inline_bytes=b"".join(data for data in inline if data is not None) + END_OF_INLINE,
        )

    def bounds(self, lengths: list[int]) -> NDArray[np.int32]:
        """The bounds of consecutive pieces with these lengths, int32 (len + 1,)."""
        ends = np.cumsum(np.array([0, *lengths], dtype=np.int64))
        if int(ends[-1]) >= 2**31:
            raise ShardError(
                f"{self.shard}: its keys or small members take {int(ends[-1])} bytes; at most 2 GiB are allowed "
                "in one shard; split the shard"
            )
        return ends.astype(np.int32)

    def layout(self) -> Layout | None:
        """The layout that all samples share, None if they differ or if one read can't cover each."""
        if self.reads_elsewhere:
            return None
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
        first_number: dict[str, int] = {}
        for number, key in enumerate(self.keys):
            if key in first_number:
                at_byte = self.records[self.first_members[number]][2]
                raise DuplicateKeyError(
                    f"{self.shard}: key {key!r} appears twice, as sample {first_number[key]} and again as sample "
                    f"{number} (at byte {at_byte}); the files of a sample must be consecutive and its key unique, "
                    "so write the shard again, sorted by name"
                )
            first_number[key] = number
