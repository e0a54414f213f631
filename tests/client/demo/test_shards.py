"""The demo's shards: complete, disjoint, reproducible."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

from infobatch_client.demo.shards import make_shards


def keys(folder: Path, split: str) -> list[str]:
    names: list[str] = []
    for path in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(path) as shard:
            names += [name.removesuffix(".png") for name in shard.getnames() if name.endswith(".png")]
    return names


def test_the_splits_are_disjoint_and_complete(tmp_path: Path) -> None:
    shards = make_shards(tmp_path)
    train, test = keys(tmp_path, "train"), keys(tmp_path, "test")
    assert (len(train), len(test)) == (shards.num_train, shards.num_test) == (1347, 450)
    assert len({*train, *test}) == 1797


def test_the_patterns_name_the_shards(tmp_path: Path) -> None:
    braceexpand = pytest.importorskip("braceexpand").braceexpand
    shards = make_shards(tmp_path)
    expanded = [*braceexpand(shards.train), *braceexpand(shards.test)]
    assert sorted(expanded) == sorted(str(path) for path in tmp_path.iterdir())


def test_the_bytes_are_the_same_every_time(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        make_shards(folder)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
