"""The reader returns webdataset's samples by index, in any order."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import infobatch_client.reading.sample_loop as sample_loop
import infobatch_client.shards.index_store as store
from infobatch_client.reading.block import MixedBlock, UniformBlock
from infobatch_client.reading.reader import ShardReader
from infobatch_client.shards.index_store import index_shards, load_index
from infobatch_client.shards.stamp import Stamp
from infobatch_client.shards.urls import expand_shards
from infobatch_stream.errors import ConfigError, CorruptShardError, ShardChangedError, ShardError
from tests.shards import image_files, webdataset_samples, write_tar

Sample = dict[str, Any]


def reader_of(*paths: object, **options: Any) -> ShardReader:
    return ShardReader(index_shards([str(path) for path in paths], progress=False), **options)


def read(reader: ShardReader, indices: Any, chunk: int = 100, **options: Any) -> list[Sample]:
    every = np.asarray(indices, dtype=np.int64)
    parts = [every[at : at + chunk] for at in range(0, len(every), chunk)]
    return list(reader.samples([(part, np.ones(len(part), np.float32)) for part in parts], **options))


def check(samples: list[Sample], indices: Any, expected: list[Sample]) -> None:
    """Samples equal webdataset's in contents, types and order of entries."""
    ours = [{**sample} for sample in samples]
    assert [sample.pop("__index__") for sample in ours] == list(indices)
    assert [sample.pop("__weight__") for sample in ours] == [1.0] * len(ours)
    assert [list(sample.items()) for sample in ours] == [list(expected[index].items()) for index in indices]
    assert all(type(value) in (bytes, str) for sample in ours for value in sample.values())


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return [write_tar(tmp_path / f"{n}.tar", image_files(50 * n, 50)) for n in range(3)]


def random_files(draw: Callable[..., Any]) -> list[tuple[str, bytes]]:
    stem = st.text(st.characters(codec="utf-8", exclude_characters="\0/."), min_size=1, max_size=5)
    folder = st.sampled_from(["", "d/", "d.e/", "d/f/"])
    keys = draw(st.lists(st.builds(str.__add__, folder, stem), min_size=1, max_size=8, unique=True))
    kinds = ["jpg", "CLS", "seg.PNG", "json", "7.txt"]
    uniform = draw(st.booleans())
    shared = draw(st.lists(st.sampled_from(kinds), min_size=1, unique=True))
    files: list[tuple[str, bytes]] = []
    for key in keys:
        if draw(st.integers(0, 5)) == 0:
            files.append((draw(st.sampled_from(["README", "__meta__/a.txt", f"{key}", ".hidden/x"])), b"skipped"))
        for extension in shared if uniform else draw(st.permutations(kinds))[: draw(st.integers(1, 4))]:
            size = 100 + len(key) if uniform and extension in ("jpg", "json") else draw(st.integers(0, 140))
            size = min(size, 64) if uniform and extension not in ("jpg", "json") else size
            files.append((f"{key}.{extension}", (key + extension).encode() * 20 + bytes(140)))
            files[-1] = (files[-1][0], files[-1][1][:size])
    return [file for file in files if not file[0].startswith("__") or file[0].startswith("__meta__/")]


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_samples_are_those_of_webdataset(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        count = data.draw(st.integers(1, 3))
        paths = []
        for number in range(count):
            files = [("first.x", b"1"), *random_files(data.draw)]
            paths.append(write_tar(Path(folder) / f"{number}.tar", files, format=data.draw(st.integers(1, 2))))
        expected = webdataset_samples(*paths)
        reader = reader_of(*paths, max_descriptors=data.draw(st.integers(1, 3)))
        total = reader.manifest.num_samples
        assert total == len(expected)
        check(read(reader, range(total)), range(total), expected)
        order = data.draw(st.lists(st.integers(0, total - 1), max_size=30))
        check(read(reader, order, chunk=data.draw(st.integers(1, 9))), order, expected)


@pytest.mark.parametrize(
    "sizes",
    [(300, 1), (1, 300), (300,), (1,), (300, 400), (1, 300, 2, 400, 65, 3), (0, 0), (300, 0, 64)],
)
@pytest.mark.parametrize("shard_count", [2, 40])
def test_every_layout_reads_in_order_and_at_random(
    tmp_path: Path, sizes: tuple[int, ...], shard_count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(shard: int) -> list[tuple[str, bytes]]:
        bodies = [(np.arange(size) * (shard + 3) % 251).astype(np.uint8).tobytes() for size in sizes]
        return [(f"{shard}-{n}.e{e}", body) for n in range(20) for e, body in enumerate(bodies)]

    monkeypatch.setattr(MixedBlock, "samples", lambda *_: pytest.fail("these shards have one layout"))
    paths = [write_tar(tmp_path / f"{n}.tar", files(n)) for n in range(shard_count)]
    expected = webdataset_samples(*paths)
    reader = reader_of(*paths)
    check(read(reader, range(len(expected)), chunk=1000), range(len(expected)), expected)
    order = np.random.default_rng(0).permutation(len(expected)).tolist()
    check(read(reader, order, chunk=1000), order, expected)


def test_shards_of_different_layouts_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UniformBlock, "samples", lambda *_: pytest.fail("these shards differ"))
    paths = [
        write_tar(tmp_path / "a.tar", image_files(0, 5)),
        write_tar(tmp_path / "b.tar", [("k.txt", b"y" * 80), ("l.txt", b"z"), ("m.x", b"1"), ("m.y", b"t" * 99)]),
    ]
    expected = webdataset_samples(*paths)
    order = [0, 5, 6, 1, 7, 7]
    check(read(reader_of(*paths), order), order, expected)


def test_urls_are_as_given_and_local_paths_are_paths(shards: list[Path]) -> None:
    urls = expand_shards([shard.as_uri() for shard in shards])
    expected = webdataset_samples(*urls)
    reader = ShardReader(index_shards(urls))
    check(read(reader, [120]), [120], expected)


def test_index_and_weight_are_python_numbers(shards: list[Path]) -> None:
    weight = np.float32(4 / 3)
    chunk = (np.array([3], dtype=np.int64), np.array([weight], dtype=np.float32))
    (sample,) = reader_of(*shards).samples([chunk])
    assert type(sample["__index__"]) is int
    assert sample["__index__"] == 3
    assert type(sample["__weight__"]) is float
    assert np.float32(sample["__weight__"]) == weight


def test_empty_chunks_and_no_chunks_give_nothing(shards: list[Path]) -> None:
    assert read(reader_of(*shards), []) == []
    nothing = (np.array([], dtype=np.int64), np.array([], dtype=np.float32))
    assert list(reader_of(*shards).samples([nothing, nothing])) == []


def test_chunks_are_taken_at_most_one_block_ahead(shards: list[Path]) -> None:
    numbers: list[int] = []

    def chunks() -> Any:
        for number in range(5):
            numbers.append(number)
            yield np.array([number]), np.ones(1, np.float32)

    samples = reader_of(*shards).samples(chunks())
    assert next(samples)["__index__"] == 0
    assert numbers == [0, 1]


def test_iterators_of_one_reader_interleave_with_few_descriptors(shards: list[Path]) -> None:
    expected = webdataset_samples(*shards)
    reader = reader_of(*shards, max_descriptors=1)
    forward, backward = list(range(150)), list(range(149, -1, -1))
    ones = np.ones(150, np.float32)
    iterators = [reader.samples([(np.array(order), ones)]) for order in (forward, backward)]
    pairs = list(zip(*iterators, strict=True))
    check([pair[0] for pair in pairs], forward, expected)
    check([pair[1] for pair in pairs], backward, expected)


def test_descriptors_stay_bounded_and_close(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{n:03d}.tar", image_files(4 * n, 4)) for n in range(60)]
    before = len(os.listdir("/proc/self/fd"))
    reader = reader_of(*paths, max_descriptors=5)
    most = 0
    for _ in reader.samples([(np.random.default_rng(0).permutation(240), np.ones(240, np.float32))]):
        most = max(most, len(os.listdir("/proc/self/fd")) - before)
    assert most <= 3 * 5 + 1
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(read(reader, [7])) == 1


def test_a_pickled_reader_reads(shards: list[Path]) -> None:
    reader = reader_of(*shards, max_descriptors=2)
    expected = read(reader, range(150))
    back = pickle.loads(pickle.dumps(reader))
    assert read(back, range(150)) == expected


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_reader_works_in_a_child_process(shards: list[Path], method: str) -> None:
    reader = reader_of(*shards)
    expected = read(reader, [149, 0, 75])
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool:
        assert pool.apply(read, (reader, [149, 0, 75])) == expected
    assert read(reader, [149, 0, 75]) == expected


def test_cold_samples_are_hinted_a_block_ahead(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import infobatch_client.reading.block as sample_block

    hints: list[tuple[int, int]] = []
    monkeypatch.setattr(sample_block, "_COLD_SECONDS", -1.0)
    monkeypatch.setattr(sample_block.os, "posix_fadvise", lambda fd, at, size, _: hints.append((at, size)))
    reader = reader_of(*shards)
    samples = reader.samples([(np.array([0, 1]), np.ones(2, np.float32)), (np.array([2]), np.ones(1, np.float32))])
    next(samples)
    assert hints == [(512, 300), (2560, 301), (4608, 302)]


@pytest.mark.parametrize("index", [-1, 150, 2**40])
def test_an_index_out_of_range_is_refused(shards: list[Path], index: int) -> None:
    with pytest.raises(ConfigError, match=rf"sample index {index} is out of range: the data set has 150 samples"):
        read(reader_of(*shards), [0, index])


def test_weights_of_another_length_are_refused(shards: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"one weight per sample index; got \(1,\) for \(2,\)"):
        list(reader_of(*shards).samples([(np.array([0, 1]), np.ones(1, np.float32))]))


def test_an_invalid_limit_of_descriptors_is_refused(shards: list[Path]) -> None:
    with pytest.raises(ConfigError, match="max_descriptors must be at least 1; got 0"):
        reader_of(*shards, max_descriptors=0)


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


def test_a_short_read_is_an_error_with_shard_and_byte(open_reader: tuple[ShardReader, Path]) -> None:
    reader, path = open_reader
    os.truncate(path, 2000)
    match = r"open\.tar: the file ends at byte 2000, inside sample '000000', which begins at byte 512; it was truncated"
    with pytest.raises(CorruptShardError, match=match):
        read(reader, [0, 1])


def test_a_short_read_can_be_skipped(open_reader: tuple[ShardReader, Path]) -> None:
    reader, path = open_reader
    os.truncate(path, 7000)
    reported: list[int] = []
    kept = read(reader, range(20), on_unreadable=lambda index, error: reported.append(index))
    assert [sample["__index__"] for sample in kept] == [0, 1]
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


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_the_only_sample_of_a_shard_can_be_written_into(tmp_path: Path) -> None:
    """Its bytes are the shard's whole inline data, which the next read has again."""
    path = write_tar(tmp_path / "one.tar", [("a.bin", bytes(range(8)))])
    reader = reader_of(path)
    for _ in range(3):
        (sample,) = read(reader, [0])
        assert sample["bin"] == bytes(range(8))
        torch.from_numpy(np.frombuffer(sample["bin"], np.uint8)).zero_()
