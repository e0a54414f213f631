"""Index files are written once, found later, and never used for another shard."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import infobatch_client.shards.index_store as store
from infobatch_client.shards.index import ShardIndex
from infobatch_client.shards.index_store import IndexedShards, index_shards, load_index
from infobatch_client.shards.stamp import Stamp
from infobatch_stream.errors import (
    ConfigError,
    CorruptShardError,
    EmptyShardError,
    ShardChangedError,
    ShardError,
)
from tests.shards import image_files, write_tar

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the shards that were scanned."""
    scanned: list[str] = []

    def scan(path: str) -> ShardIndex:
        scanned.append(path)
        return original(path)

    original = store.scan_shard
    monkeypatch.setattr(store, "scan_shard", scan)
    return scanned


def refuse_beside(monkeypatch: pytest.MonkeyPatch, *folders: object) -> None:
    """Makes folders read-only, also for root."""
    original = store.tempfile.mkstemp

    def mkstemp(*args: object, dir: str, **options: object) -> tuple[int, str]:
        if any(dir.startswith(str(folder)) for folder in folders):
            raise PermissionError(13, "Permission denied")
        return original(*args, dir=dir, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(store.tempfile, "mkstemp", mkstemp)


def test_the_manifest_counts_and_names(shards: list[str]) -> None:
    indexed = index_shards(shards)
    assert indexed.manifest.names == indexed.urls == indexed.paths == tuple(shards)
    assert indexed.manifest.counts == (1, 2, 3)
    assert indexed.index_paths == tuple(f"{path}.index.arrow" for path in shards)
    assert indexed.total_bytes == sum(os.path.getsize(path) for path in shards)


def test_the_second_time_nothing_is_scanned(shards: list[str], scans: list[str]) -> None:
    first = index_shards(shards)
    assert sorted(scans) == shards
    scans.clear()
    assert index_shards(shards) == first
    assert scans == []


def test_force_scans_again(shards: list[str], scans: list[str]) -> None:
    index_shards(shards)
    index_shards(shards, force=True)
    assert sorted(scans) == sorted(shards * 2)


def test_a_touched_shard_is_scanned_again_and_stays_the_same_data_set(shards: list[str], scans: list[str]) -> None:
    first = index_shards(shards)
    scans.clear()
    os.utime(shards[1], ns=(1, 1))
    assert index_shards(shards).manifest.fingerprint == first.manifest.fingerprint
    assert scans == [shards[1]]
    scans.clear()
    index_shards(shards)
    assert scans == []


def test_a_rewritten_shard_is_another_data_set(shards: list[str], caplog: pytest.LogCaptureFixture) -> None:
    first = index_shards(shards)
    write_tar(shards[1], image_files(77, 2))
    second = index_shards(shards)
    assert second.manifest.counts == first.manifest.counts
    assert second.manifest.fingerprint != first.manifest.fingerprint
    assert f"{shards[1]}: the contents of this shard have changed" in caplog.text


def rewrite_in_place(path: str, files: list[tuple[str, bytes]]) -> None:
    write_tar(path, files)


def rewrite_beside(path: str, files: list[tuple[str, bytes]]) -> None:
    write_tar(f"{path}.new", files)
    os.replace(f"{path}.new", path)


@pytest.mark.parametrize("rewrite", [rewrite_in_place, rewrite_beside])
def test_labels_written_again_with_the_same_size_and_modification_time_are_read(
    rewrite: Callable[[str, list[tuple[str, bytes]]], None], shards: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    os.utime(shards[0], ns=(1, 1))
    first = index_shards(shards)
    assert load_index(first.index_paths[0]).members(0)[1][3] == b"0"
    size = os.path.getsize(shards[0])
    rewrite(shards[0], [("000000.jpg", bytes(300)), ("000000.cls", b"5")])
    os.utime(shards[0], ns=(1, 1))
    assert os.path.getsize(shards[0]) == size
    second = index_shards(shards)
    assert load_index(second.index_paths[0]).members(0)[1][3] == b"5"
    assert second.manifest.fingerprint != first.manifest.fingerprint
    assert f"{shards[0]}: the contents of this shard have changed" in caplog.text


def test_an_index_file_copied_with_its_shard_is_checked_once_and_serves_both(
    shards: list[str], scans: list[str], tmp_path: Path
) -> None:
    first = index_shards(shards)
    copy = tmp_path / "copy"
    shutil.copytree(Path(shards[0]).parent, copy)
    copies = [str(copy / Path(shard).name) for shard in shards]
    scans.clear()
    assert index_shards(copies).manifest.fingerprint == first.manifest.fingerprint
    assert sorted(scans) == copies
    for path in copies:  # the index files come back, as from a folder that several machines share
        shutil.copy2(f"{path}.index.arrow", Path(shards[0]).parent)
    scans.clear()
    index_shards(shards)
    index_shards(copies)
    assert scans == []


def test_an_index_file_beside_read_only_copies_is_checked_once(
    shards: list[str], cache: Path, scans: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index_shards(shards)
    shutil.copytree(Path(shards[0]).parent, tmp_path / "copy")
    copies = [str(tmp_path / "copy" / Path(shard).name) for shard in shards]
    refuse_beside(monkeypatch, tmp_path / "copy")
    scans.clear()
    for _ in range(2):
        indexed = index_shards(copies)
        assert indexed.manifest.fingerprint == first.manifest.fingerprint
        assert all(path.startswith(str(cache)) for path in indexed.index_paths)
        assert sorted(scans) == copies


def test_a_change_of_the_inode_alone_is_noticed_where_the_modification_time_was_set() -> None:
    copied, written = Stamp(1, 900, 7), Stamp(900, 900, 7)
    assert copied.is_same_file(Stamp(1, 900, 7))
    assert not copied.is_same_file(Stamp(1, 900, 8))
    assert not copied.is_same_file(Stamp(1, 901, 7))
    assert written.is_same_file(Stamp(900, 900, 8))  # mounts of object stores number their files anew each time
    assert not written.is_same_file(Stamp(900, 901, 7))
    assert not written.is_same_file(Stamp(901, 901, 7))


def test_copies_elsewhere_are_the_same_data_set(shards: list[str], tmp_path: Path) -> None:
    copies = [tmp_path / f"copy-{Path(shard).name}" for shard in shards]
    for shard, copy in zip(shards, copies, strict=True):
        copy.write_bytes(Path(shard).read_bytes())
    ours, theirs = index_shards(shards), index_shards([copy.as_uri() for copy in copies])
    assert ours.manifest.fingerprint == theirs.manifest.fingerprint
    assert theirs.paths == tuple(map(str, copies))
    assert theirs.urls == tuple(copy.as_uri() for copy in copies)


def test_the_cache_is_used_for_read_only_shards(
    shards: list[str], cache: Path, scans: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_beside(monkeypatch, Path(shards[0]).parent)
    indexed = index_shards(shards)
    assert all(path.startswith(f"{cache}/infobatch/index/") for path in indexed.index_paths)
    scans.clear()
    assert index_shards(shards) == indexed
    assert scans == []
    assert load_index(indexed.index_paths[2]).keys == ["000020", "000021", "000022"]


def test_an_unwritable_cache_is_an_error(shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_beside(monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match=r"neither beside it nor to .*Permission denied.*set XDG_CACHE_HOME"):
        index_shards(shards)


def test_a_failed_write_leaves_nothing_behind(shards: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "replace", replace)
    with pytest.raises(ConfigError, match="No space left on device"):
        index_shards(shards)
    assert sorted(os.listdir(Path(shards[0]).parent)) == ["0.tar", "1.tar", "2.tar"]


def test_index_files_are_readable_by_others(shards: list[str]) -> None:
    mode = os.stat(index_shards(shards).index_paths[0]).st_mode
    assert stat.S_IMODE(mode) == 0o644


@pytest.mark.parametrize("junk", [b"", b"junk", b"ARROW1\0\0" + bytes(100)])
def test_a_damaged_index_file_is_replaced(shards: list[str], junk: bytes) -> None:
    first = index_shards(shards)
    Path(first.index_paths[0]).write_bytes(junk)
    with pytest.raises(ShardChangedError, match=r"this index file can't be used .*re-run `infobatch index`"):
        load_index(first.index_paths[0])
    assert index_shards(shards) == first
    assert load_index(first.index_paths[0]).head.count == 1


def test_an_index_file_of_an_earlier_version_is_made_again(shards: list[str], scans: list[str]) -> None:
    first = index_shards(shards)
    for path in map(Path, first.index_paths):
        path.write_bytes(path.read_bytes().replace(b'"format_version": 2', b'"format_version": 1'))
    scans.clear()
    assert index_shards(shards) == first
    assert sorted(scans) == shards
    assert b'"format_version": 2' in Path(first.index_paths[0]).read_bytes()


def test_concurrent_writers_leave_one_whole_index(shards: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        every = list(pool.map(lambda _: index_shards(shards, force=True, progress=False), range(16)))
    assert all(indexed == every[0] for indexed in every)
    assert [load_index(path).head.count for path in every[0].index_paths] == [1, 2, 3]
    assert len(os.listdir(Path(shards[0]).parent)) == 6


def test_a_mapped_index_outlives_its_replacement_and_holds_no_descriptor(shards: list[str]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    index = load_index(index_shards(shards).index_paths[2])
    assert len(os.listdir("/proc/self/fd")) == before
    index_shards(shards, force=True)
    os.unlink(f"{shards[2]}.index.arrow")
    assert index.keys == ["000020", "000021", "000022"]
    assert index.members(0)[1][3] == b"0"


def test_indexed_shards_pickle(shards: list[str]) -> None:
    indexed = index_shards(shards)
    back = pickle.loads(pickle.dumps(indexed))
    assert isinstance(back, IndexedShards)
    assert back == indexed


def test_progress_is_shown_only_on_request(shards: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    index_shards(shards, force=True)
    assert capsys.readouterr().err == ""


def test_errors_name_the_shard(shards: list[str], tmp_path: Path) -> None:
    empty = write_tar(tmp_path / "empty.tar", [])
    with pytest.raises(EmptyShardError, match=r"empty\.tar: no sample in this shard"):
        index_shards([*shards, str(empty)])
    os.truncate(shards[2], 1000)
    with pytest.raises(CorruptShardError, match=r"2\.tar: at byte 1000"):
        index_shards(shards)
    with pytest.raises(ShardError, match=r"gone\.tar: no such shard; check the path, and the working folder"):
        index_shards([str(tmp_path / "gone.tar")])


def test_an_index_file_with_a_damaged_body_is_refused_by_name(shards: list[str]) -> None:
    path = index_shards(shards).index_paths[0]
    whole = bytearray(Path(path).read_bytes())
    for byte in range(64, len(whole) - 64):
        whole[byte] ^= 0xFF
    Path(path).write_bytes(whole)
    with pytest.raises(ShardChangedError, match=r"index file can't be used .*infobatch index"):
        load_index(path)
