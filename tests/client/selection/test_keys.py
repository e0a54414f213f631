"""`subset=` by keys: of files, columns and lists; unknown, repeated and ambiguous ones are named and counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import infobatch_client.selection.keys as keys_module
from infobatch_client.selection.keys import subset_array
from infobatch_client.shards.index_store import IndexedShards, index_shards
from infobatch_stream import ConfigError, InfoBatchStreamDataset
from tests.shards import write_tar

KEYS = ["d/k0002", "d/k0011", "dä/k0019"]
INDICES = [2, 11, 19]


def key(number: int) -> str:
    return f"{'d' if number < 15 else 'dä'}/k{number:04d}"


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    folder = tmp_path / "shards"
    folder.mkdir()
    bounds = [0, 7, 8, 20]
    return [
        str(write_tar(folder / f"{n}.tar", [(f"{key(i)}.txt", b"x") for i in range(bounds[n], bounds[n + 1])]))
        for n in range(3)
    ]


@pytest.fixture
def indexed(shards: list[str]) -> IndexedShards:
    return index_shards(shards)


def arrow_file(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def arrow_stream(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


TABLE = pa.table({"uid": ["a", "b", "c"], "key": KEYS})
COLLECTIONS: dict[str, Callable[[], Any]] = {
    "list": lambda: KEYS,
    "tuple": lambda: tuple(reversed(KEYS)),
    "set": lambda: set(KEYS),
    "numpy str": lambda: np.array(KEYS),
    "numpy object": lambda: np.array(KEYS, object),
    "numpy bytes": lambda: np.array([text.encode() for text in KEYS]),
    "bytes": lambda: [text.encode() for text in KEYS],
    "arrow": lambda: pa.array(KEYS),
    "arrow large": lambda: pa.array(KEYS, pa.large_string()),
    "arrow view": lambda: pa.array(KEYS, pa.string_view()),
    "arrow binary": lambda: pa.array([text.encode() for text in KEYS]),
    "arrow dictionary": lambda: pa.array(KEYS).dictionary_encode(),
    "arrow chunks": lambda: pa.chunked_array([KEYS[:1], [], KEYS[1:]]),
    "arrow slice": lambda: pa.array(["none", *KEYS])[1:],
    "table": lambda: TABLE,
    "table of one column": lambda: pa.table({"name": KEYS}),
    "record batch": lambda: pa.record_batch({"__key__": KEYS, "key": ["x", "y", "z"]}),
}
FILES: dict[str, Callable[[Path], Any]] = {
    "keys.txt": lambda path: path.write_text("\n".join(KEYS)),
    "keys.lst": lambda path: path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*KEYS, "", ""]).encode()),
    "keys": lambda path: path.write_text("\n\n".join([*KEYS, ""])),
    "keys.npy": lambda path: np.save(path, np.array(KEYS)),
    "keys.parquet": lambda path: pq.write_table(TABLE, path),
    "keys.arrow": lambda path: arrow_file(path, TABLE),
    "keys.feather": lambda path: arrow_stream(path, TABLE),
    "indices.npy": lambda path: np.save(path, np.array(INDICES)),
    "mask.npy": lambda path: np.save(path, np.isin(np.arange(20), INDICES)),
}


@pytest.mark.parametrize("form", COLLECTIONS)
def test_keys_in_any_form_give_their_samples(form: str, indexed: IndexedShards) -> None:
    found = subset_array(COLLECTIONS[form](), indexed)
    assert (found.dtype, found.tolist()) == (np.dtype(np.int64), INDICES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("form", [str, Path])
def test_a_file_of_keys_is_a_runs_subset(form: Any, name: str, shards: list[str], tmp_path: Path) -> None:
    FILES[name](tmp_path / name)
    dataset = InfoBatchStreamDataset(shards, epochs=3, delta="0.7", subset=form(tmp_path / name))
    assert dataset.options is not None
    assert dataset.options.subset is not None
    assert np.flatnonzero(dataset.options.subset).tolist() == INDICES


@pytest.mark.parametrize("subset", [INDICES, np.array(INDICES), np.arange(20) % 2 == 0, pa.array(INDICES), range(3)])
def test_indices_and_masks_stay_what_they_are(subset: Any, indexed: IndexedShards) -> None:
    np.testing.assert_array_equal(subset_array(subset, indexed), np.asarray(subset))


@pytest.mark.parametrize("limit", [1, 9, 100])
def test_keys_are_matched_batch_by_batch(limit: int, indexed: IndexedShards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_BATCH_KEYS", limit)
    every = [key(number) for number in range(20)]
    assert subset_array(every[::-1], indexed).tolist() == list(range(20))
    assert subset_array(KEYS, indexed).tolist() == INDICES


def test_keys_that_are_no_utf8_are_found(tmp_path: Path) -> None:
    name = b"\xff.txt".decode("utf-8", "surrogateescape")
    path = tmp_path / "a.tar"
    import tarfile

    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(name))
    indexed = index_shards([str(path)])
    assert subset_array([name[:-4]], indexed).tolist() == subset_array([b"\xff"], indexed).tolist() == [0]


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (
            [*KEYS, "gone"],
            r"subset has keys of no sample in these shards \(1 of 4\): 'gone'\. A key is a",
        ),
        (
            [f"x{n}" for n in range(9)],
            r"no sample .*\(9 of 9\): 'x0', 'x1', 'x2', 'x3', 'x4' and 4 more\. .*such as 'd",
        ),
        (
            ["gone"],
            r"uid in a json, pass subset=select_samples\(shards, lambda sample: sample\['json'\]\['uid'\] ",
        ),
        (
            [*KEYS, *KEYS[:2]],
            r"keys more than once \(2 of them\): 'd/k0002', 'd/k0011'; give each of them once",
        ),
        (pa.array([], pa.string()), "subset has no key in it"),
        (pa.array(["a", None]), "subset has 1 nulls among its 2 keys"),
        (["a", 3], "subset has 3 among its keys, of type int; keys are text"),
        (pa.array([1.5]), "subset has a column of double; keys are text"),
        (pa.table({"key": [1, 2]}), "subset has a column of int64; keys are text"),
        (
            pa.table({"uid": ["a"], "url": ["b"]}),
            "subset has the columns uid, url, and none is called 'key': ",
        ),
        (
            np.zeros(3, "u8,u8"),
            r"subset is \[\('f0', .* and not of keys; to choose by what a member holds",
        ),
        ("no/such.txt", r"subset='no/such.txt' can't be read: .*No such file"),
        ("keys.csv", r"subset='keys\.csv': a file of keys is text with a key in each line \(\.txt\), \.parquet"),
    ],
)
def test_keys_that_say_nothing_are_errors(subset: Any, message: str, indexed: IndexedShards) -> None:
    with pytest.raises(ConfigError, match=message):
        subset_array(subset, indexed)


@pytest.mark.parametrize("name", ["a.npy", "a.parquet", "a.arrow"])
def test_a_file_of_something_else_is_an_error(name: str, indexed: IndexedShards, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(ConfigError, match=rf"{name}' can't be read: "):
        subset_array(tmp_path / name, indexed)


def test_a_key_of_several_shards_is_ambiguous(shards: list[str], tmp_path: Path) -> None:
    again = str(write_tar(tmp_path / "again.tar", [(f"{KEYS[0]}.txt", b"y"), ("other.txt", b"z")]))
    indexed = index_shards([*shards, again])
    assert subset_array(["other", KEYS[1]], indexed).tolist() == [11, 21]
    with pytest.raises(ConfigError, match=r"in more than one shard \(1 of 3\): 'd/k0002'; .*url"):
        subset_array(KEYS, indexed)


def test_floats_are_refused(shards: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"subset is float64 \(2,\)"):
        InfoBatchStreamDataset(shards, epochs=3, delta="0.7", subset=[1.0, 2.0])
