"""Bad shards among those of a data set: all are named in one error, or left out and named."""

from __future__ import annotations

import os
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest

import infobatch_client.shards.index_store as store
from infobatch_client.reading.open_shards import OpenShards
from infobatch_client.shards.index_store import index_shards
from infobatch_stream.errors import (
    CorruptShardError,
    EmptyShardError,
    ShardChangedError,
    ShardError,
)
from tests.shards import image_files, write_tar

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def bad(shards: list[str], tmp_path: Path) -> list[str]:
    """Six shards: the second is cut short, the fourth has no sample, the fifth doesn't exist."""
    os.truncate(shards[1], 1000)
    return [*shards, str(write_tar(tmp_path / "empty.tar", [])), str(tmp_path / "gone.tar"), more(tmp_path)]


def more(folder: Path) -> str:
    return str(write_tar(folder / "more.tar", image_files(500, 7)))


REASONS = [
    r"1\.tar: at byte 1000: the file ends",
    r"empty\.tar: no sample in this shard: none of its 0 files",
    r"gone\.tar: no such shard; check the path",
]


def test_an_error_names_all_bad_shards(bad: list[str]) -> None:
    with pytest.raises(ShardError) as caught:
        index_shards(bad)
    first, *lines = str(caught.value).splitlines()
    assert first == "3 of 6 shards can't be used; on_error='skip' leaves them out:"
    assert all(re.search(reason, line) for reason, line in zip(REASONS, lines, strict=True))
    assert type(caught.value) is ShardError
    with pytest.raises(EmptyShardError, match=r"2 of 3 shards(.|\n)*empty\.tar(.|\n)*none\.tar: no sample"):
        index_shards([bad[0], bad[3], str(write_tar(f"{bad[0]}.none.tar", []))])


def test_an_error_names_at_most_fifty_bad_shards(tmp_path: Path) -> None:
    with pytest.raises(ShardError) as caught:
        index_shards([str(tmp_path / f"{number:02d}.tar") for number in range(60)])
    lines = str(caught.value).splitlines()
    assert len(lines) == 52
    assert lines[-1] == "  and 10 more; `infobatch index` lists all of them"


def test_bad_shards_are_left_out_and_the_others_are_the_data_set(bad: list[str]) -> None:
    indexed = index_shards(bad, max_left_out=None)
    good = [bad[0], bad[2], bad[5]]
    rest = index_shards(good)
    assert [url for url, _ in indexed.left_out] == [bad[1], bad[3], bad[4]]
    assert all(re.search(reason, text) for reason, (_, text) in zip(REASONS, indexed.left_out, strict=True))
    assert replace(indexed, left_out=()) == rest
    assert indexed.manifest.counts == (1, 3, 7)
    assert indexed.manifest.left_out == (bad[1], bad[3], bad[4])
    assert pickle.loads(pickle.dumps(indexed)).manifest.left_out == indexed.manifest.left_out


def test_more_bad_shards_than_allowed_are_an_error_that_names_all(bad: list[str]) -> None:
    assert index_shards(bad, max_left_out=3).manifest.num_samples == 11
    with pytest.raises(
        ShardError, match=r"3 of 6 shards can't be used, and at most max_shards=2 may be left out:\n"
    ) as e:
        index_shards(bad, max_left_out=2)
    assert all(re.search(reason, str(e.value)) for reason in REASONS)


def test_a_data_set_of_bad_shards_alone_is_an_error(bad: list[str]) -> None:
    with pytest.raises(ShardError, match="3 of 3 shards can't be used; no shard is left:"):
        index_shards([bad[1], bad[3], bad[4]], max_left_out=None)
    with pytest.raises(CorruptShardError, match="1 of 1 shards can't be used; no shard is left:"):
        index_shards([bad[1]], max_left_out=None)


DAMAGED = {
    "a hole": lambda data: data[:1024] + bytes(512) + data[1536:],
    "a second half of zeros": lambda data: (data + bytes(30720))[:1024] + bytes(len(data) + 29696),
    "cut short": lambda data: data[:2000],
    "no bytes": lambda data: b"",
    "no tar file": lambda data: b"<html>404</html>" * 100,
    "a broken header": lambda data: data[:1024] + b"x" + data[1025:],
    "a key twice": lambda data: data[:2048] + data[:2048] + bytes(1024),
    "two archives": lambda data: data + data,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_every_kind_of_bad_shard_is_left_out(damage: str, shards: list[str]) -> None:
    path = Path(shards[2])
    path.write_bytes(DAMAGED[damage](path.read_bytes()))
    with pytest.raises(ShardError, match=r"2\.tar: "):
        index_shards(shards)
    indexed = index_shards(shards, max_left_out=None)
    assert (indexed.urls, [url for url, _ in indexed.left_out]) == (tuple(shards[:2]), [shards[2]])


def test_a_pipe_in_place_of_a_shard_is_refused_and_not_waited_for(shards: list[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(ShardError, match=r"pipe\.tar: this shard is no regular file"):
        index_shards([*shards, str(tmp_path / "pipe.tar")])


def test_a_disk_that_fails_is_the_error_of_its_shard(shards: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, shard: str) -> object:
        if shard == shards[1]:
            raise OSError(5, "Input/output error")
        return original(fd, shard)

    original = store.scan_tar
    monkeypatch.setattr(store, "scan_tar", fail)
    with pytest.raises(CorruptShardError, match=r"1\.tar: reading failed \(Input/output error\); check its disk"):
        index_shards(shards)
    assert index_shards(shards, max_left_out=1).manifest.counts == (1, 3)


def test_a_shard_that_grows_while_it_is_indexed_is_refused(shards: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    original = store.scan_tar

    def scan(fd: int, shard: str) -> object:
        members = original(fd, shard)
        with open(shard, "ab") as file:
            file.write(b"more")
        return members

    monkeypatch.setattr(store, "scan_tar", scan)
    with pytest.raises(ShardChangedError, match="this shard changed while it was indexed; wait until it is complete"):
        index_shards(shards)


def test_a_named_pipe_is_a_bad_shard_and_does_not_block(shards: list[str], tmp_path: Path) -> None:
    pipe = str(tmp_path / "pipe.tar")
    os.mkfifo(pipe)
    for index in (lambda: index_shards([*shards, pipe], progress=False), lambda: store.scan_shard(pipe)):
        with pytest.raises(ShardError, match=r"pipe\.tar: this shard is no regular file"):
            index()
    indexed = index_shards(shards, progress=False)
    os.rename(pipe, shards[0])
    with pytest.raises(ShardChangedError, match="re-run `infobatch index`"):
        OpenShards(indexed).get(0)
