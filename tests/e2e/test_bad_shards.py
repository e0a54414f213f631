"""With on_error="skip" the good shards train; all ranks and every resume have the same ones, or say which they lack."""

from __future__ import annotations

import os
import re
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from infobatch_stream import Connection as ConnectionOptions
from infobatch_stream import (
    CorruptShardError,
    InfoBatchLoader,
    InfoBatchStreamDataset,
    RunConflictError,
    ShardError,
    SkipErrors,
    StateError,
    Timeouts,
)
from tests.e2e.conftest import Server, make_shards
from tests.e2e.rank_processes import start_ranks
from tests.shards import write_tar

SIZES = [30, 20, 40, 25]
GOOD = [*range(30), *range(50, 90)]


def bad_folder(folder: Path) -> Path:
    """Four shards; the second and the fourth are cut short."""
    make_shards(folder, SIZES)
    for number in (1, 3):
        path = folder / f"part-{number:03d}.tar"
        path.rename(folder / f"{number}.whole")
        path.write_bytes((folder / f"{number}.whole").read_bytes()[:5000])
    return folder


def repair(folder: Path, number: int) -> None:
    os.replace(folder / f"{number}.whole", folder / f"part-{number:03d}.tar")


def dataset_of(folder: Path, url: str, run: str) -> InfoBatchStreamDataset:
    dataset = InfoBatchStreamDataset(str(folder), url=url, run=run, epochs=3, delta="0.7", on_error="skip")
    return dataset.map(lambda sample: int(sample["txt"]))


def train(loader: InfoBatchLoader) -> list[int]:
    seen: list[int] = []
    for numbers in loader:
        seen += numbers[loader.weights() > 0].tolist()
        loader.update(numbers.float())
    return seen


def test_the_good_shards_are_trained_and_the_bad_ones_named(server: Server, tmp_path: Path) -> None:
    folder = bad_folder(tmp_path)
    with pytest.raises(CorruptShardError, match=r"2 of 4 shards can't be used(.|\n)*part-001(.|\n)*part-003"):
        InfoBatchStreamDataset(str(folder), policy=None)
    with pytest.warns(UserWarning, match=r"2 of 4 shards are left out .*:\n.*part-001.* at byte 5000.*\n.*part-003"):
        dataset = dataset_of(folder, server.url, "good-shards")
    assert [(Path(url).name, "at byte 5000" in why) for url, why in dataset.left_out.items()] == [
        ("part-001.tar", True),
        ("part-003.tar", True),
    ]
    with InfoBatchLoader(dataset, 16) as loader:
        next(loader.epochs())
        assert sorted(train(loader)) == GOOD
    np.testing.assert_array_equal(server.scores("good-shards"), np.array(GOOD, np.float32))


def test_more_bad_shards_than_max_shards_are_an_error(tmp_path: Path) -> None:
    folder = bad_folder(tmp_path)
    with pytest.raises(CorruptShardError, match="2 of 4 shards can't be used, and at most max_shards=1 may"):
        InfoBatchStreamDataset(str(folder), policy=None, on_error=SkipErrors(max_shards=1))


@pytest.mark.filterwarnings("ignore:.* shards are left out")
def test_a_resume_has_the_same_shards_left_out_or_is_refused(server: Server, tmp_path: Path) -> None:
    folder = bad_folder(tmp_path)
    with InfoBatchLoader(dataset_of(folder, server.url, "left-out"), 16) as loader:
        next(loader.epochs())
        train(loader)
        state = loader.state_dict()
    with InfoBatchLoader(dataset_of(folder, server.url, "left-out"), 16) as loader:
        loader.load_state_dict(state)
        assert next(loader.epochs()) == 1
    repair(folder, 1)
    with InfoBatchLoader(dataset_of(folder, server.url, "left-out"), 16) as loader:
        with pytest.raises(StateError, match=r"manifest_fingerprint: .*left out here, as .* read: \S*part-003\.tar$"):
            loader.load_state_dict(state)
        with pytest.raises(RunConflictError, match=r"samples: the run has 70, this job asks for 90(.|\n)*003\.tar$"):
            next(loader.epochs())


def open_epoch(_: Pipe, folders: list[str], url: str) -> str:
    quick = Timeouts(connect_timeout_s=5, call_timeout_s=2, plan_timeout_s=5, flush_timeout_s=5, agree_timeout_s=8)
    dataset = InfoBatchStreamDataset(
        folders[dist.get_rank()],
        url=url,
        run="rank-shards",
        epochs=3,
        delta="0.7",
        on_error="skip",
        connection=ConnectionOptions(timeouts=quick),
    )
    with InfoBatchLoader(dataset.to_tuple("txt"), 8, collate_fn=list) as loader:
        next(loader.epochs())
        return "opened"


@pytest.mark.filterwarnings("ignore:.* shards are left out")
def test_ranks_that_have_left_out_other_shards_say_which(server: Server, tmp_path: Path) -> None:
    folders = [bad_folder(tmp_path / name) for name in "ab" if not (tmp_path / name).mkdir()]
    repair(folders[1], 1)
    ranks = start_ranks(open_epoch, 2, [str(folder) for folder in folders], server.url)
    texts = [rank.result() for rank in ranks]
    for rank in ranks:
        rank.join()
    for text, own in zip(texts, [r"\S*part-001.tar, \S*part-003.tar", r"\S*part-003.tar"], strict=True):
        begin = "RanksError: the ranks could not open epoch 0: manifest_fingerprint is "
        assert re.match(rf"{begin}.*; left out here, as they can't be read: {own}$", text)


@pytest.mark.parametrize("spec", ["{}", "{}/*.tar", "{}/part-{{000..002}}.tar"])
def test_a_link_to_nothing_is_a_bad_shard_however_shards_are_given(spec: str, tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"part-{number:03}.tar", [(f"{number}-{n}.txt", b"x") for n in range(3)])
    (tmp_path / "part-002.tar").symlink_to("nowhere")
    shards = spec.format(tmp_path)
    with pytest.raises(ShardError, match=r"part-002\.tar: no such shard"):
        InfoBatchStreamDataset(shards, policy=None)
    with pytest.warns(UserWarning, match="no such shard"):
        dataset = InfoBatchStreamDataset(shards, policy=None, on_error="skip")
    assert [Path(shard).name for shard in dataset.left_out] == ["part-002.tar"]
