"""Links in a shard are read as extracting it would, or refused by name; webdataset drops them without a word."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_client.reading.reader import ShardReader
from infobatch_client.shards.index_store import index_shards, scan_shard
from infobatch_stream.errors import DuplicateKeyError, ShardError
from tests.shards import image_files, webdataset_samples, write_tar

Entry = tuple[str, bytes | str]
"""A file with its bytes; or a link with its target: "=name" a hard one, "name" a symbolic one."""


def write_links(path: Path, entries: list[Entry], format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name, what in entries:
            member = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                member.size = len(what)
                archive.addfile(member, io.BytesIO(what))
                continue
            member.type = tarfile.LNKTYPE if what.startswith("=") else tarfile.SYMTYPE
            member.linkname = what.removeprefix("=")
            archive.addfile(member)
    return path


def payloads(path: Path) -> list[dict[str, bytes]]:
    """The samples of a shard: their members by full name."""
    reader = ShardReader(index_shards([str(path)], progress=False))
    order = np.arange(reader.manifest.num_samples)
    samples = []
    for sample in reader.samples([(order, np.ones(len(order), np.float32))]):
        members = {name: body for name, body in sample.items() if not name.startswith("__")}
        samples.append({f"{sample['__key__']}.{name}": body for name, body in members.items()})
    reader.close()
    return samples


LABEL, PICTURE, OTHER = b"7", b"picture" * 100, b"other" * 200


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([("a.cls", LABEL), ("b.cls", "=a.cls")], id="a hard link"),
        pytest.param([("a.cls", LABEL), ("b.cls", "a.cls")], id="a symbolic link"),
        pytest.param([("b.cls", "a.cls"), ("x.cls", OTHER), ("a.cls", LABEL)], id="to a file after it"),
        pytest.param([("classes/cat", LABEL), ("b.cls", "classes/cat")], id="to a file of no sample"),
        pytest.param([("d/a.cls", LABEL), ("e/b.cls", "../d/a.cls")], id="across folders"),
        pytest.param([("d/a.cls", LABEL), ("d/b.cls", "a.cls"), ("d/c.cls", "=d/b.cls")], id="to a link by a link"),
        pytest.param([("./a.cls", LABEL), ("./b.cls", "=a.cls"), ("c.cls", "./a.cls")], id="with a dot"),
        pytest.param([("a.cls", LABEL), ("b.cls", "=a.cls"), ("c.cls", "=b.cls"), ("d.cls", "c.cls")], id="a chain"),
        pytest.param([("d/a.cls", LABEL), ("now", "d"), ("b.cls", "now/a.cls")], id="through a linked folder"),
        pytest.param([("a.jpg", PICTURE), ("a.cls", LABEL), ("b.jpg", "=a.jpg"), ("b.cls", LABEL)], id="a picture"),
        pytest.param([("a.jpg", PICTURE), ("b.jpg", "a.jpg"), ("b.png", OTHER), ("b.gif", "a.jpg")], id="two of one"),
        pytest.param([("b.png", OTHER), ("b.gif", "c.jpg"), ("b.x", OTHER), ("c.jpg", PICTURE)], id="a picture after"),
        pytest.param([("l" * 150 + ".cls", LABEL), ("m" * 150 + ".cls", "=" + "l" * 150 + ".cls")], id="long names"),
        pytest.param(
            [("a.cls", LABEL), ("README", "/none"), ("d.x", "d"), ("d/y.z", OTHER)], id="beside links of none"
        ),
    ],
)
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_linked_member_is_what_extraction_gives(entries: list[Entry], format: int, tmp_path: Path) -> None:
    path = write_links(tmp_path / "a.tar", entries, format)
    extracted = tmp_path / "extracted"
    extracted.mkdir()
    subprocess.run(["tar", "xf", path, "-C", extracted], check=True)
    members = {name: body for sample in payloads(path) for name, body in sample.items()}
    names = {name for name, _ in entries if "." in name.split("/")[-1] and not (extracted / name).is_dir()}
    assert members == {name: (extracted / name).read_bytes() for name in names}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_links_within_a_shard_are_read_as_extracted(data: st.DataObject) -> None:

    files: list[Entry] = [("0.a", b"0" * 700), ("1.a", b"1")]
    for number in range(2, data.draw(st.integers(3, 12))):
        for extension in "ab":
            before = data.draw(st.sampled_from([name for name, _ in files]))
            what = data.draw(st.sampled_from([f"={before}", before, bytes([number]) * 90, bytes([number])]))
            files.append((f"{number}.{extension}", what))
    with tempfile.TemporaryDirectory() as folder:
        path = write_links(Path(folder) / "a.tar", files)
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
        got = {name: body for sample in payloads(path) for name, body in sample.items()}
        assert got == {name: (Path(folder) / name).read_bytes() for name, _ in files}


def test_labels_that_gnu_tar_stored_as_hard_links_arrive(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        (source / f"{number:03d}.img").write_bytes(bytes([number]) * 200)
        label = source / f"{number:03d}.cls"
        if number < 2:
            label.write_text(str(number))
        else:
            os.link(source / f"{number % 2:03d}.cls", label)
    path = tmp_path / "a.tar"
    subprocess.run(["tar", "cf", path, "--sort=name", "-C", source, "."], check=True)
    assert sum("cls" in sample for sample in webdataset_samples(path)) == 2
    samples = payloads(path)
    assert [sample[f"./{number:03d}.cls"] for number, sample in enumerate(samples)] == [b"0", b"1"] * 10
    assert [sample[f"./{number:03d}.img"] for number, sample in enumerate(samples)] == [
        bytes([number]) * 200 for number in range(20)
    ]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("a.cls", "=b.cls"), ("b.cls", LABEL)], "a hard link to 'b.cls', and no file before it in this shard has th"),
        ([("a.cls", "=gone.cls"), ("b.cls", LABEL)], "a hard link to 'gone.cls', and no file before it"),
        ([("a.cls", "gone.cls")], "a symbolic link to 'gone.cls', which isn't in this shard"),
        ([("a.cls", "/data/a.cls"), ("data/a.cls", LABEL)], "to '/data/a.cls', which is an absolute path, outside of"),
        ([("d/a.cls", "../../a.cls"), ("a.cls", LABEL)], r"to '\.\./\.\./a.cls', which is outside of this shard"),
        ([("a.cls", "b.cls"), ("b.cls", "a.cls")], "a symbolic link to 'b.cls', which leads round in a circle"),
        ([("a.cls", "a.cls")], "a symbolic link to 'a.cls', which leads round in a circle"),
        ([("b.cls", "gone"), ("a.cls", "=b.cls")], "a symbolic link to 'gone', which isn't in this shard"),
    ],
)
def test_a_link_to_nothing_in_the_shard_is_refused_by_name(entries: list[Entry], message: str, tmp_path: Path) -> None:
    path = write_links(tmp_path / "a.tar", [("z.jpg", PICTURE), *entries])
    with pytest.raises(ShardError, match=rf"a\.tar: member '.*cls' at byte \d+ is .*{message}.*--dereference"):
        scan_shard(str(path))


def test_a_member_of_an_unknown_type_is_refused_by_name(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.jpg", PICTURE), ("a.cls", LABEL)])
    data = bytearray(path.read_bytes())
    data[1536 + 156] = ord("Q")
    data[1536 + 148 : 1536 + 156] = b" " * 8
    data[1536 + 148 : 1536 + 156] = b"%06o\0 " % sum(data[1536:2048])
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"member 'a\.cls' at byte 1536 is of the unknown type 'Q', so its"):
        scan_shard(str(path))


def test_a_hard_link_to_itself_adds_nothing(tmp_path: Path) -> None:
    path = write_links(tmp_path / "a.tar", [("a.jpg", PICTURE), ("a.jpg", "=a.jpg"), ("a.cls", LABEL)])
    assert payloads(path) == [{"a.jpg": PICTURE, "a.cls": LABEL}]


def test_a_link_counts_as_a_member_in_duplicates(tmp_path: Path) -> None:
    path = write_links(tmp_path / "a.tar", [("b.cls", LABEL), ("a.cls", LABEL), ("a.CLS", "=b.cls")])
    with pytest.raises(DuplicateKeyError, match="sample 'a' has two members 'cls'"):
        scan_shard(str(path))


def test_a_linked_member_has_the_place_of_its_target_in_the_fingerprint(tmp_path: Path) -> None:
    linked = write_links(tmp_path / "a.tar", [("a.cls", LABEL), ("b.cls", "=a.cls")])
    index = scan_shard(str(linked))
    assert [index.members(number) for number in range(2)] == [[("cls", 512, 1, LABEL)]] * 2
    plain = write_tar(tmp_path / "b.tar", image_files(0, 3))
    assert scan_shard(str(plain)).head.fingerprint.hex().startswith("dd68355a015c7d3a")
