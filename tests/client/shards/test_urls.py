"""Paths, patterns and folders are expanded into one ordered list of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infobatch_client.shards.urls import expand_shards, local_path
from infobatch_stream.errors import ConfigError, ShardError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("t-2.tar", "t-0.tar", "t-10.tar", "t-1.tar", "notes.txt", "z.tar.gz"):
        (tmp_path / name).touch()
    (tmp_path / "sub.tar").mkdir()
    return tmp_path


def names(urls: list[str]) -> list[str]:
    return [Path(url).name for url in urls]


def test_braces_keep_their_order(folder: Path) -> None:
    assert expand_shards(f"{folder}/t-{{2..0}}.tar") == [f"{folder}/t-{n}.tar" for n in (2, 1, 0)]


def test_a_list_keeps_its_order(folder: Path) -> None:
    assert names(expand_shards([f"{folder}/t-10.tar", folder / "t-2.tar"])) == ["t-10.tar", "t-2.tar"]


def test_a_glob_is_sorted(folder: Path) -> None:
    assert names(expand_shards(f"{folder}/t-?.tar")) == ["t-0.tar", "t-1.tar", "t-2.tar"]
    assert expand_shards(f"{folder}/t-*.tar") == sorted(map(str, folder.glob("t-*.tar")))


@pytest.mark.parametrize("make", [str, Path, lambda path: f"{path}/", lambda path: f"file://{path}"])
def test_the_tar_files_of_a_folder_are_sorted(folder: Path, make: type) -> None:
    assert names(expand_shards(make(folder))) == ["t-0.tar", "t-1.tar", "t-10.tar", "t-2.tar"]


def test_kinds_mix_in_one_list(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "m.tar").touch()
    entries = (entry for entry in [folder / "more", f"{folder}/t-{{1,0}}.tar", f"{folder}/t-1?.tar"])
    assert names(expand_shards(entries)) == ["m.tar", "t-1.tar", "t-0.tar", "t-10.tar"]


def test_a_file_url_is_kept_and_names_a_local_file(folder: Path) -> None:
    (folder / "a b.tar").touch()
    url = f"file://{folder}/a%20b.tar"
    assert expand_shards(url) == [url]
    assert local_path(url) == f"{folder}/a b.tar"
    assert local_path(f"file:{folder}/t-0.tar") == f"{folder}/t-0.tar"


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder: Path) -> None:
    odd = folder / "t-{0..1}[x].tar"
    odd.touch()
    assert expand_shards(odd) == [str(odd)]


def test_home_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert expand_shards("~/t-0.tar") == [f"{folder}/t-0.tar"]


@pytest.mark.parametrize(
    "url",
    [
        "http://host/a.tar",
        "https://host/{0..3}.tar",
        "s3://b/a.tar",
        "gs://b/a.tar",
        "pipe:cat a.tar",
        "hf://d/a.tar",
    ],
)
def test_remote_shards_are_refused_with_advice(url: str) -> None:
    with pytest.raises(
        ConfigError, match=r"remote shards are not supported yet; (copy them to|run the command once into) a local f"
    ):
        expand_shards([url])


def test_a_shard_listed_twice_is_refused(folder: Path) -> None:
    (folder / "link.tar").symlink_to(folder / "t-0.tar")
    for again in (folder / "t-0.tar", f"{folder}/./t-0.tar", folder / "link.tar"):
        with pytest.raises(ConfigError, match=r"listed twice \(also as .*t-0\.tar\).*list every shard once"):
            expand_shards([folder / "t-0.tar", again])


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(ShardError, match=r"t-3\.tar: no such shard; check the path"):
        expand_shards(f"{folder}/t-{{0..3}}.tar")


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([], "list of shards is empty"),
        ("", "an empty string is not a shard"),
        (7, "a path, a pattern, a folder or a list of these; got int 7"),
        (b"a.tar", "a path, a pattern, a folder or a list of these; got bytes"),
        ([3], "every shard must be a string or a path; got int 3"),
        ("nothing-*.tar", r"nothing-\*\.tar: no file matches this pattern"),
        ("t-{0..3.tar", "unbalanced braces"),
        ("file://host/a.tar", r"can't name another host \(host\)"),
    ],
)
def test_an_argument_without_shards_is_refused(shards: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand_shards(shards)  # type: ignore[arg-type]


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \*\.tar file in this folder"):
        expand_shards(tmp_path)


@pytest.mark.parametrize(
    ("shards", "words"),
    [
        ("a.tar::b.tar", r"pass a list, shards=\['a.tar', 'b.tar'\]"),
        (["x-{0..1}.tar::y.tar"], r"pass a list, shards=\['x-\{0..1\}.tar', 'y.tar'\]"),
        ("mix.yaml", "pass the list of its urls"),
        ("mix.yml", "pass the list of its urls"),
        ({"datasets": []}, "got a dict of 'datasets'.*pass one list of all shards"),
        ([{"urls": "a.tar", "prob": 0.5}], "got a dict of 'urls', 'prob'.*groups="),
        ("pipe:gsutil cat gs://b/a.tar", "run the command once into a local file"),
        ("s3://b/{000..009}.tar", "copy them to a local folder"),
    ],
)
def test_what_webdataset_reads_and_this_does_not_is_named_with_what_to_pass(shards: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        expand_shards(shards)
