"""Files are grouped into webdataset's samples, and the index survives a round trip through Arrow."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from infobatch_client.shards.grouping import RESERVED_EXTENSIONS, index_members, split_name
from infobatch_client.shards.index import IndexHead, ShardIndex
from infobatch_client.shards.index_store import scan_shard
from infobatch_client.shards.stamp import Stamp
from infobatch_client.shards.tar_scan import TarMembers
from infobatch_stream.errors import DuplicateKeyError, EmptyShardError, ShardChangedError, ShardError
from infobatch_stream.manifest import shard_fingerprint
from tests.shards import image_files, webdataset_samples, write_tar


def members_of(*names: str, body: bytes = b"x") -> TarMembers:
    count = len(names)
    return TarMembers(list(names), [512 + 1024 * n for n in range(count)], [len(body)] * count, [body] * count)


def index_of(*names: str) -> ShardIndex:
    return index_members(members_of(*names), "s.tar", shard_bytes=4096, stamp=Stamp(7, 8, 9))


@given(st.text(st.sampled_from("ab./_Ä\n"), max_size=9))
def test_names_split_as_webdataset_splits_them(name: str) -> None:
    key, extension = base_plus_ext(name)
    ours = split_name(name)
    if ours is not None:
        assert ours == (key, extension.lower())
    else:
        assert key is None or name.startswith("__")


@pytest.mark.parametrize("name", ["__meta__/a.x", "__a.b__", "__meta__", "__x__.__", "README", ".hidden", "a/.", "x."])
def test_odd_names_are_samples_exactly_when_webdataset_has_samples(name: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(name, b"1"), ("z.x", b"2")])
    theirs = [sample["__key__"] for sample in webdataset_samples(path)]
    assert scan_shard(str(path)).keys == theirs


def test_consecutive_files_with_one_key_are_a_sample() -> None:
    index = index_of("a.jpg", "a.Seg.PNG", "readme", "__x__/b.c", "a.cls", "d/a.jpg", "d/b.0.jpg")
    assert index.keys == ["a", "d/a", "d/b"]
    assert [[entry[0] for entry in index.members(n)] for n in range(3)] == [
        ["jpg", "seg.png", "cls"],
        ["jpg"],
        ["0.jpg"],
    ]
    assert index.head.layout is None


def test_the_layout_is_known_if_all_samples_share_it(tmp_path: Path) -> None:
    index = scan_shard(str(write_tar(tmp_path / "a.tar", image_files(0, 4))))
    assert index.head.layout == (("jpg", False), ("cls", True))
    assert index_of("a.x", "b.y").head.layout is None


def test_the_fingerprint_is_computed_from_the_members() -> None:
    expected = shard_fingerprint([("a", "x", 512, 1, b"x"), ("b", "x", 2560, 1, b"x")])
    assert index_of("a.x", "none", "b.X").head.fingerprint == expected


def test_copies_have_the_same_fingerprint_and_other_contents_another(tmp_path: Path) -> None:
    one = scan_shard(str(write_tar(tmp_path / "a.tar", image_files(0, 4)))).head
    copy = scan_shard(str(write_tar(tmp_path / "b.tar", image_files(0, 4)))).head
    files = image_files(0, 4)
    files[1] = (files[1][0], b"9")
    other = scan_shard(str(write_tar(tmp_path / "c.tar", files))).head
    assert one.fingerprint == copy.fingerprint != other.fingerprint


names = st.lists(
    st.tuples(st.text(st.sampled_from("aä/\udc80"), min_size=1, max_size=4), st.binary(max_size=90)),
    min_size=1,
    max_size=12,
    unique_by=lambda pair: pair[0],
)


@given(names)
def test_an_index_survives_arrow(pairs: list[tuple[str, bytes]]) -> None:
    members = TarMembers(
        [f"{name}.{len(body) % 3}" for name, body in pairs],
        [512 + 2048 * number for number in range(len(pairs))],
        [len(body) for _, body in pairs],
        [body if len(body) <= 64 else None for _, body in pairs],
    )
    index = index_members(members, "s.tar", shard_bytes=99, stamp=Stamp(7, 8, 9))
    sink = pa.BufferOutputStream()
    batch = index.to_arrow()
    batch.validate(full=True)
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    reader = pa.ipc.open_file(sink.getvalue())
    back = ShardIndex.from_arrow(reader.get_batch(0))
    assert IndexHead.from_schema(reader.schema) == back.head == index.head
    assert back.keys == index.keys == [name for name, _ in pairs]
    assert [back.key(n) for n in range(len(pairs))] == index.keys
    for n, (_, body) in enumerate(pairs):
        stated = (str(len(body) % 3), 512 + 2048 * n, len(body), body if len(body) <= 64 else None)
        assert back.members(n) == index.members(n) == [stated]


def test_number_columns_are_views_of_the_arrow_buffers() -> None:
    batch = index_of(*(f"{n}.x" for n in range(100))).to_arrow()
    back = ShardIndex.from_arrow(batch)
    assert not back.offsets.flags.owndata
    assert not back.offsets.flags.writeable
    assert back.inline_of(np.array([3, 99])) == [b"x", b"x"]


@pytest.mark.parametrize("version", [b"1", b"3"])
def test_an_index_of_another_version_is_refused(version: bytes) -> None:
    batch = index_of("a.x").to_arrow()
    metadata = {
        key: value.replace(b'_version": 2', b'_version": ' + version) for key, value in batch.schema.metadata.items()
    }
    other = batch.replace_schema_metadata(metadata)
    assert IndexHead.from_schema(other.schema) is None
    with pytest.raises(ShardChangedError, match="not an index file of this version"):
        ShardIndex.from_arrow(other)


def test_a_file_that_is_not_an_index_has_no_head() -> None:
    assert IndexHead.from_schema(pa.schema([("a", pa.int8())])) is None


@pytest.mark.parametrize("names", [("a.x", "b.x", "a.x"), ("a.x", "b.x", "a.y"), ("b.x", "a.x", "a.y", "b.y")])
def test_a_duplicate_key_is_an_error(names: tuple[str, ...]) -> None:
    with pytest.raises(DuplicateKeyError, match=r"s\.tar: key '[ab]' appears twice, as sample 0 and again as sample 2"):
        index_of(*names)


def test_interleaved_keys_are_two_samples_each_to_webdataset_and_an_error_to_us(tmp_path: Path) -> None:
    files = [("a.x", b"1"), ("b.x", b"2"), ("a.y", b"3")]
    path = write_tar(tmp_path / "a.tar", files)
    assert len(webdataset_samples(path)) == 3
    with pytest.raises(DuplicateKeyError, match="the files of a sample must be consecutive"):
        scan_shard(str(path))


def test_a_duplicate_extension_in_a_sample_is_an_error() -> None:
    with pytest.raises(DuplicateKeyError, match=r"s\.tar: sample 'a' has two members 'x' \(the second at byte 1536\)"):
        index_of("a.x", "a.X")


@pytest.mark.parametrize("extension", sorted(RESERVED_EXTENSIONS))
def test_reserved_extensions_are_refused(extension: str) -> None:
    with pytest.raises(ShardError, match=f"has the reserved extension '{extension}'; .*with another extension"):
        index_of(f"a.{extension}")


def test_a_shard_without_samples_is_an_error() -> None:
    with pytest.raises(EmptyShardError, match=r"s\.tar: no sample in this shard: none of its 2 files is named"):
        index_of("README", "__meta__/a.x")


def test_too_many_extensions_are_an_error() -> None:
    with pytest.raises(ShardError, match=r"65537 different extensions.*names like 0\.1234\.jpg need another"):
        index_of(*(f"{n}.{n}" for n in range(2**16 + 1)))


def test_keys_of_names_in_other_encodings_survive(tmp_path: Path) -> None:
    path = tmp_path / "latin.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("é.x"))
    theirs = [sample["__key__"] for sample in webdataset_samples(path)]
    assert scan_shard(str(path)).keys == theirs == ["\udce9"]
