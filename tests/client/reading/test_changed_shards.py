"""Shards that changed behind their index, and reads that fail: refused by name, with the byte, or skipped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import infobatch_client.reading.sample_loop as sample_loop
import infobatch_client.shards.index_store as store
from infobatch_client.reading.reader import ShardReader
from infobatch_client.shards.index_store import index_shards, load_index
from infobatch_client.shards.stamp import Stamp
from infobatch_stream.errors import CorruptShardError, ShardChangedError, ShardError
from tests.client.reading.conftest import read, reader_of
from tests.shards import image_files, write_tar


def shorten(path: Path) -> None:
    os.truncate(path, 5000)


def rewrite(path: Path) -> None:
    size = path.stat().st_size
    write_tar(path, image_files(700, 50))
    os.truncate(path, size)


def relabel(path: Path) -> None:
    """Writes other labels, in place, with the same size and modification time."""
    before = path.stat()
    write_tar(path, [(name, b"x" if name.endswith("cls") else body) for name, body in image_files(50, 50)])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def hide(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """The change, on a file system that shows none of its times."""

    def hidden(path: Path) -> None:
        change(path)
        index = load_index(f"{path}.index.arrow")
        index = replace(index, head=replace(index.head, stamps=(Stamp.of(path.stat()),)))
        os.unlink(f"{path}.index.arrow")
        with pa.ipc.new_file(f"{path}.index.arrow", index.to_arrow().schema) as writer:
            writer.write_batch(index.to_arrow())

    return hidden


def fill_with_ones(path: Path) -> None:
    path.write_bytes(b"\1" * path.stat().st_size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shorten, "it has 5000 bytes, but .* when it was indexed"),
        (os.unlink, r"can no longer be opened \(No such file or directory\)"),
        (rewrite, "its members have changed"),
        (relabel, "its members have changed"),
        (fill_with_ones, r"it is damaged now \(at byte 0: no valid tar header"),
        (hide(relabel), r"other bytes in the member at byte \d+"),
        (hide(fill_with_ones), r"no header of a member of 1 bytes at byte \d+"),
    ],
)
def test_a_shard_that_changed_is_refused_by_name(
    shards: list[Path], change: Callable[[Path], None], message: str
) -> None:
    reader = reader_of(*shards)
    change(shards[1])
    with pytest.raises(ShardChangedError, match=rf"1\.tar: this shard no longer matches.*{message}.*infobatch index"):
        read(reader, range(150))


def move_away_and_back(path: Path) -> None:
    path.rename(f"{path}.away").rename(path)


@pytest.mark.parametrize(
    "touch",
    [lambda path: os.utime(path, ns=(1, 1)), lambda path: path.chmod(0o600), move_away_and_back],
    ids=["utime", "chmod", "rename"],
)
def test_a_shard_that_was_only_touched_is_read_after_one_scan(
    shards: list[Path], touch: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(*shards)
    touch(shards[1])
    scans: list[str] = []
    original = store.scan_shard
    monkeypatch.setattr(store, "scan_shard", lambda path: (scans.append(path), original(path))[1])
    for _ in range(2):
        assert len(read(reader, range(150))) == 150
        reader.close()
    assert len(read(reader_of(*shards), range(150))) == 150
    assert scans == [str(shards[1])]


def test_a_touched_shard_whose_index_file_cannot_learn_it_is_scanned_once_in_a_process(
    shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(*shards)
    shards[1].chmod(0o600)
    scans: list[str] = []
    original = store.scan_shard
    monkeypatch.setattr(store, "scan_shard", lambda path: (scans.append(path), original(path))[1])

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(store.os, "replace", refuse)
    for _ in range(2):
        assert len(read(reader, range(150))) == 150
        reader.close()
    assert scans == [str(shards[1])]


def test_an_index_file_of_other_contents_is_refused(shards: list[Path]) -> None:
    reader = reader_of(*shards)
    write_tar(shards[1], image_files(700, 50))
    index_shards([str(shards[1])])
    with pytest.raises(ShardChangedError, match=r"1\.tar: .* its index file describes other contents now"):
        read(reader, [60])


def test_samples_of_a_changed_shard_are_skipped_and_reported(shards: list[Path]) -> None:
    reader = reader_of(*shards)
    shorten(shards[1])
    reported: list[tuple[int, ShardError]] = []
    order = [0, 60, 100, 61, 1]
    kept = read(reader, order, on_unreadable=lambda index, error: reported.append((index, error)))
    assert [sample["__index__"] for sample in kept] == [0, 100, 1]
    assert [index for index, _ in reported] == [60, 61]
    assert all(isinstance(error, ShardChangedError) for _, error in reported)
    assert read(reader, [60, 61], on_unreadable=lambda index, error: None) == []


@pytest.fixture(params=["uniform", "mixed"])
def open_reader(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ShardReader, Path]:
    """A reader that has its shard open, and the shard: 20 samples of 2 KB."""
    files = image_files(0, 20, 2000)
    if request.param == "mixed":
        files.append(("000019.txt", b"text"))
    path = write_tar(tmp_path / "open.tar", files)
    reader = reader_of(path)
    assert len(read(reader, range(20))) == 20
    return reader, path


def truncated_meanwhile(path: Path, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sample 0, and then all twenty of a shard that is cut off during the pass."""
    yield np.array([0]), np.ones(1, np.float32)
    os.truncate(path, size)
    yield np.arange(20), np.ones(20, np.float32)


def test_a_short_read_is_an_error_with_shard_and_byte(open_reader: tuple[ShardReader, Path]) -> None:
    reader, path = open_reader
    match = r"open\.tar: the file ends at byte 2000, inside sample '000000', which begins at byte 512; it was truncated"
    with pytest.raises(CorruptShardError, match=match):
        list(reader.samples(truncated_meanwhile(path, 2000)))


def test_a_short_read_can_be_skipped(open_reader: tuple[ShardReader, Path]) -> None:
    reader, path = open_reader
    reported: list[int] = []
    kept = reader.samples(truncated_meanwhile(path, 7000), lambda index, error: reported.append(index))
    assert [sample["__index__"] for sample in kept] == [0, 0, 1]
    assert reported == list(range(2, 20))


def failing_pread(fd: int, size: int, at: int) -> bytes:
    raise OSError(5, "Input/output error")


def test_a_failing_disk_is_an_error_with_shard_and_byte(
    open_reader: tuple[ShardReader, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, _ = open_reader
    monkeypatch.setattr(sample_loop.os, "pread", failing_pread)
    sample_loop.sample_loop.cache_clear()
    try:
        with pytest.raises(CorruptShardError, match=r"open\.tar: reading failed \(Input/output error\) in sample '000"):
            read(reader, [3])
        reported: list[int] = []
        assert read(reader, [3, 4], on_unreadable=lambda index, error: reported.append(index)) == []
        assert reported == [3, 4]
    finally:
        sample_loop.sample_loop.cache_clear()


def test_short_reads_are_completed(open_reader: tuple[ShardReader, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, _ = open_reader
    expected = read(reader, range(20))
    whole = os.pread
    monkeypatch.setattr(sample_loop.os, "pread", lambda fd, size, at: whole(fd, min(size, 700), at))
    sample_loop.sample_loop.cache_clear()
    try:
        assert read(reader, range(20)) == expected
    finally:
        sample_loop.sample_loop.cache_clear()


@pytest.mark.parametrize(
    ("change", "message"),
    [(shorten, "it has 5000 bytes"), (relabel, "its members have changed"), (fill_with_ones, "it is damaged now")],
)
def test_a_change_of_an_open_shard_is_refused_in_the_next_pass(
    shards: list[Path], change: Callable[[Path], None], message: str
) -> None:
    reader = reader_of(*shards)
    read(reader, range(150))
    change(shards[1])
    for _ in range(2):
        with pytest.raises(ShardChangedError, match=rf"1\.tar: this shard no longer matches.*{message}"):
            read(reader, range(150))
    skipped: list[int] = []
    assert len(read(reader, range(150), on_unreadable=lambda index, _: skipped.append(index))) == 100
    assert skipped == list(range(50, 100))


def replace_by_rename(path: Path) -> None:
    write_tar(path.with_suffix(".new"), image_files(700, 50)).rename(path)


@pytest.mark.parametrize(
    "change",
    [os.unlink, replace_by_rename, lambda path: os.utime(path, ns=(1, 1)), lambda path: path.chmod(0o600)],
    ids=["unlink", "replace", "utime", "chmod"],
)
def test_an_open_shard_that_nobody_wrote_into_is_read_as_it_was(
    shards: list[Path], change: Callable[[Path], object]
) -> None:
    reader = reader_of(*shards)
    before = read(reader, range(150))
    change(shards[1])
    for _ in range(2):
        assert read(reader, range(150)) == before
