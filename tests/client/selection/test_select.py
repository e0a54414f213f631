"""`select_samples`: indices by a predicate over a few members, which are all that is read."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import infobatch_client.reading.sample_loop as sample_loop
from infobatch_stream import (
    ConfigError,
    CorruptShardError,
    InfoBatchStreamDataset,
    ShardError,
    SkipErrors,
    select_samples,
)
from tests.shards import webdataset_samples, write_tar

COUNTS = [7, 1, 12, 5]
N = sum(COUNTS)


def files_of(number: int) -> list[tuple[str, bytes]]:
    """A picture, a json of more than 64 bytes but for every third sample, and a label but for every fifth."""
    about = {"width": 100 * (number % 7), "uid": f"{number:032x}", **({"why": "x" * 60} if number % 3 else {})}
    files = [(f"d/{number:04d}.jpg", b"picture" * 500), (f"d/{number:04d}.json", json.dumps(about).encode())]
    return files + ([(f"d/{number:04d}.cls", str(number % 4).encode())] if number % 5 else [])


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    paths, first = [], 0
    for shard, count in enumerate(COUNTS):
        files = [file for number in range(first, first + count) for file in files_of(number)]
        paths.append(str(write_tar(tmp_path / f"{shard}.tar", files)))
        first += count
    return paths


@pytest.mark.parametrize("num_workers", [0, 2, None])
def test_the_samples_for_which_the_predicate_holds(num_workers: int | None, shards: list[str]) -> None:
    chosen = select_samples(shards, lambda sample: sample["json"]["width"] > 256, num_workers=num_workers)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == [number for number in range(N) if 100 * (number % 7) > 256]


def test_uids_of_a_published_subset_give_a_runs_samples(shards: list[str]) -> None:
    uids = {f"{number:032x}" for number in (3, 11, 20)}
    chosen = select_samples(shards, lambda sample: sample["json"]["uid"] in uids)
    dataset = InfoBatchStreamDataset(shards, epochs=3, delta="0.7", subset=chosen)
    assert dataset.options is not None
    assert dataset.options.subset is not None
    assert np.flatnonzero(dataset.options.subset).tolist() == [3, 11, 20]


@pytest.mark.parametrize("decode", [True, False])
def test_the_predicate_gets_what_webdataset_gives(decode: bool, shards: list[str]) -> None:
    seen: list[dict[str, Any]] = []
    select_samples(shards, lambda one: not seen.append(one), members=("json", "cls"), num_workers=0, decode=decode)
    wanted = []
    for sample in webdataset_samples(*shards):
        row = {name: sample[name] for name in ("__key__", "__url__", "json", "cls") if name in sample}
        if decode:
            row["json"] = json.loads(row["json"])
            row |= {"cls": int(row["cls"])} if "cls" in row else {}
        wanted.append(row)
    assert seen == wanted


@pytest.mark.parametrize(("members", "reads"), [("json", N - N // 3 - 1), ("cls", 0), ((), 0), (("jpg", ".CLS"), N)])
def test_only_the_members_that_are_asked_for_are_read(
    members: Any, reads: int, shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    pread = os.pread
    assert len(select_samples(shards, lambda sample: True, members=members, num_workers=0)) == N
    monkeypatch.setattr(sample_loop.os, "pread", lambda fd, size, at: (sizes.append(size), pread(fd, size, at))[1])
    assert len(select_samples(shards, lambda sample: True, members=members, num_workers=0)) == N
    opening = [size for size in sizes if 512 <= size <= 576 or size == 6]
    assert len(sizes) - len(opening) == reads


def test_no_sample_chosen_is_an_empty_array(shards: list[str]) -> None:
    chosen = select_samples(shards, lambda sample: np.False_, num_workers=2)
    assert (chosen.dtype, chosen.shape) == (np.dtype(np.int64), (0,))


@pytest.mark.parametrize(("result", "kind"), [(None, "NoneType"), (iter(()), "tuple_iterator"), (1, "int")])
def test_a_predicate_must_answer_true_or_false(result: Any, kind: str, shards: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"the predicate gave a ({kind}); return True or False"):
        select_samples(shards, lambda sample: result, num_workers=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_of_the_predicate_names_the_sample(num_workers: int, shards: list[str]) -> None:
    def fail(sample: dict[str, Any]) -> bool:
        return bool(1 // (int(sample["__key__"][2:]) - 9))

    message = r"2\.tar: sample 'd/0009' \(index 9\): the predicate raised ZeroDivisionError: "
    with pytest.raises(ConfigError, match=message):
        select_samples(shards, fail, num_workers=num_workers)


def test_a_member_that_a_sample_lacks_is_no_key_of_its_dict(shards: list[str]) -> None:
    message = r"sample 'd/0000' \(index 0\): the predicate raised KeyError: 'cls'; it has no member 'cls', so ask by sa"
    with pytest.raises(ConfigError, match=message):
        select_samples(shards, lambda sample: sample["cls"] == 3, members="cls")
    chosen = select_samples(shards, lambda sample: sample.get("cls") == 3, members="cls")
    assert chosen.tolist() == [number for number in range(N) if number % 4 == 3 and number % 5]


def test_a_member_that_no_sample_has_is_an_error(shards: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"members=\['jsn'\]: no sample has a member 'jsn'; they have cls, jpg, json"):
        select_samples(shards, lambda sample: "jsn" in sample, members=("jsn",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"predicate": 3}, "predicate is a int"), ({"num_workers": -1}, "num_workers=-1 must be at least 0")],
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any], message: str, shards: list[str]) -> None:
    with pytest.raises(ConfigError, match=message):
        select_samples(shards, **{"predicate": bool, **arguments})


def break_json(path: str) -> None:
    data = Path(path).read_bytes()
    Path(path).write_bytes(data.replace(b'{"width": 300', b'{"width": 3x0', 1))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_member_that_cannot_be_decoded_is_named_or_skipped(num_workers: int, shards: list[str]) -> None:
    break_json(shards[0])

    def choose(**options: Any) -> list[int]:
        return select_samples(shards, lambda sample: True, num_workers=num_workers, **options).tolist()

    message = r"sample 'd/0003' \(index 3\): its member 'json' can't be decoded: json\.decoder\.JSONDecodeError: .*"
    with pytest.raises(ShardError, match=message):
        choose()
    with pytest.warns(UserWarning, match=r"1 samples were not selected, as they failed; the last one: .*'d/0003'"):
        assert choose(on_error="skip") == [number for number in range(N) if number != 3]
    with pytest.raises(ConfigError, match=r"over max_errors=0 samples failed; the last one: .*'d/0003'"):
        choose(on_error=SkipErrors(max_errors=0))
    assert choose(decode=False) == list(range(N))


def test_bad_shards_are_left_out_as_the_dataset_leaves_them_out(shards: list[str]) -> None:
    os.truncate(shards[0], 3000)
    with pytest.raises(CorruptShardError, match=r"0\.tar: at byte 3000"):
        select_samples(shards, bool)
    with pytest.warns(UserWarning, match=r"1 of 4 shards are left out"):
        chosen = select_samples(shards, lambda sample: sample["__key__"] == "d/0009", on_error="skip")
    assert chosen.tolist() == [9 - COUNTS[0]]


def test_a_process_that_dies_is_an_error(shards: list[str]) -> None:
    def die(sample: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ConfigError, match="a process of select_samples was killed"):
        select_samples(shards, die, num_workers=2)


def test_progress_is_a_bar_on_request(shards: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    step: Callable[[Any], bool] = lambda sample: True  # noqa: E731
    select_samples(shards, step)
    assert capsys.readouterr().err == ""
    from infobatch_client.shards.progress import ProgressBar

    with ProgressBar(2, "selecting", True) as bar:
        bar.delay = 0
        bar.refresh()
    assert re.search(r"selecting: .*0/2", capsys.readouterr().err)
