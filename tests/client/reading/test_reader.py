"""The reader returns webdataset's samples by index, in any order."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_client.reading.block import MixedBlock, UniformBlock
from infobatch_client.reading.reader import ShardReader
from infobatch_client.shards.index_store import index_shards
from infobatch_client.shards.urls import expand_shards
from infobatch_stream.errors import ConfigError
from tests.client.reading.conftest import Sample, read, reader_of
from tests.shards import image_files, webdataset_samples, write_tar


def check(samples: list[Sample], indices: Any, expected: list[Sample]) -> None:
    """Samples equal webdataset's in contents, types and order of entries."""
    ours = [{**sample} for sample in samples]
    assert [sample.pop("__index__") for sample in ours] == list(indices)
    assert [sample.pop("__weight__") for sample in ours] == [1.0] * len(ours)
    assert [list(sample.items()) for sample in ours] == [list(expected[index].items()) for index in indices]
    assert all(type(value) in (bytes, str) for sample in ours for value in sample.values())


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


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_the_only_sample_of_a_shard_can_be_written_into(tmp_path: Path) -> None:
    """Its bytes are the shard's whole inline data, which the next read has again."""
    path = write_tar(tmp_path / "one.tar", [("a.bin", bytes(range(8)))])
    reader = reader_of(path)
    for _ in range(3):
        (sample,) = read(reader, [0])
        assert sample["bin"] == bytes(range(8))
        torch.from_numpy(np.frombuffer(sample["bin"], np.uint8)).zero_()
