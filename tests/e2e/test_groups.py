"""Which processes train together: groups, replicas, nodes, and what is fetched and read how often."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from infobatch_client.ranks.place import RankChoice
from infobatch_client.ranks.ranks import Ranks
from infobatch_stream import ConfigError, InfoBatchLoader, InfoBatchStreamDataset, RanksError
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.rank_processes import start_ranks
from tests.e2e.training import make_loader, score, train_pass


def with_replicas(_: Connection, shards: str, url: str) -> dict[str, Any]:
    """Two data-parallel ranks of two replicas each."""
    data = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    tensor = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    rank = dist.get_rank()
    torch.manual_seed(rank)
    dataset = InfoBatchStreamDataset(shards, url=url, run="replicas-draw", epochs=1).map(drawn)
    with InfoBatchLoader(dataset, 64, process_group=data[rank % 2], replicas=tensor[rank // 2]) as drawing:
        noise = [batch.tolist() for _ in drawing.epochs() for batch in drawing if drawing.skip() is None]
    with make_loader(
        shards, url, "replicas", 16, epochs=2, process_group=data[rank % 2], replicas=tensor[rank // 2]
    ) as loader:
        found = {"seen": [train_pass(loader) for _epoch in loader.epochs()]}
        found |= {"state": loader.state_dict(), "noise": noise}
    with InfoBatchLoader(
        InfoBatchStreamDataset(shards, policy=None).map(drawn),
        16,
        replicas=tensor[rank // 2],
        process_group=data[rank % 2],
    ) as validation:
        found["validation"] = [batch.tolist() for batch in validation]
    return found


def drawn(sample: dict[str, Any]) -> float:
    """A random augmentation."""
    return torch.rand(()).item()


def test_replicas_have_the_same_batches_and_one_of_them_pushes(server: Server, shards: str) -> None:
    found = [rank.result() for rank in start_ranks(with_replicas, 4, shards, server.url)]
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert found[0]["validation"] != found[2]["validation"]
    assert found[0]["noise"] != found[2]["noise"]
    assert sorted(found[0]["seen"][0] + found[2]["seen"][0]) == list(range(SAMPLES))
    kept = sum(len(seen) for rank in (found[0], found[2]) for seen in rank["seen"])
    info = server.info("replicas")
    assert info.stored_scores == kept
    assert info.barrier_timeouts == 0
    assert not info.job


def failing_replica(_: Connection) -> str:
    rank = dist.get_rank()
    data = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    tensor = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    ranks = Ranks(RankChoice(process_group=data[rank % 2], replicas=tensor[rank // 2]), timeout_s=30)

    def act() -> int:
        if rank == 3:
            raise OSError("no space left")
        return rank

    assert ranks.together("count", lambda: rank) == [0, 1, 2, 3]
    ranks.together("write", act)
    return "done"


def test_what_fails_on_a_replica_is_told_to_all() -> None:
    texts = [rank.result() for rank in start_ranks(failing_replica, 4)]
    assert texts[3] == "OSError: no space left"
    for text in texts[:3]:
        assert text == "RanksError: rank 1 (replica 1) could not write: OSError: no space left"


def on_two_nodes(_: Connection, shards: str, url: str) -> dict[str, Any]:
    rank = dist.get_rank()
    os.environ["GROUP_RANK"] = str(rank // 2)
    with make_loader(shards, url, "nodes", 8, epochs=1) as loader:
        next(loader.epochs())
        assert loader._epochs.open is not None
        plan = os.stat(loader._epochs.open.plan_path)
        return {
            "lanes": loader.state_dict()["lanes"],
            "plan": (plan.st_ino, plan.st_nlink),
            "seen": train_pass(loader),
        }


def test_a_plan_is_fetched_once_by_node_and_a_node_reads_its_own_shards(server: Server, shards: str) -> None:
    found = [rank.result() for rank in start_ranks(on_two_nodes, 4, shards, server.url)]
    assert {rank["lanes"] for rank in found} == {2}
    assert found[0]["plan"] == found[1]["plan"] != found[2]["plan"] == found[3]["plan"]
    assert {rank["plan"][1] for rank in found} == {2}  # names of one file
    assert sorted(number for rank in found for number in rank["seen"]) == list(range(SAMPLES))
    ends = np.cumsum([100, 1, 307, 250, 351])
    nodes = [set(np.searchsorted(ends, found[at]["seen"] + found[at + 1]["seen"], side="right")) for at in (0, 2)]
    assert len(nodes[0] & nodes[1]) <= 2  # the one in which the lanes meet, and the end of the longer lane


def in_a_group(_: Connection, shards: str, url: str) -> list[int] | str:
    group = dist.new_group([1, 2])
    if dist.get_rank() == 0:
        try:
            make_loader(shards, url, "group", 16, process_group=group).epochs().__next__()
        except ConfigError as error:
            return str(error)
    with make_loader(shards, url, "group", 16, process_group=group) as loader:
        next(loader.epochs())
        return train_pass(loader)


def test_a_group_that_is_not_the_world(server: Server, shards: str) -> None:
    outside, first, second = (rank.result() for rank in start_ranks(in_a_group, 3, shards, server.url))
    assert "this process is no member of process_group=" in outside
    assert sorted(first + second) == list(range(SAMPLES))


def in_two_worlds(_: Connection, shards: str, url: str, store: str) -> list[int]:
    found = []
    for world in ("first", "second"):
        with make_loader(shards, url, f"{world}-world", 16) as loader:
            next(loader.epochs())
            found.append(len(train_pass(loader)))
        if world == "first":
            rank, size = dist.get_rank(), dist.get_world_size()
            dist.destroy_process_group()
            dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    return found


def test_a_world_that_is_destroyed_and_made_again(server: Server, shards: str, tmp_path: Path) -> None:
    found = [rank.result() for rank in start_ranks(in_two_worlds, 2, shards, server.url, str(tmp_path / "store"))]
    assert np.sum(found, axis=0).tolist() == [SAMPLES, SAMPLES]


def evaluate_alone(_: Connection, shards: str) -> int:
    if dist.get_rank():
        return 0
    with make_loader(shards, None, None, 100, policy=None, epochs=None, anneal=True, shuffle=False, rank=0,
                     world_size=1) as loader:  # fmt: skip
        return sum(int((loader.weights() > 0).sum()) for _ in loader)


def test_one_rank_evaluates_alone(shards: str) -> None:
    assert [rank.result() for rank in start_ranks(evaluate_alone, 2, shards)] == [SAMPLES, 0]


def evaluate_together(_: Connection, shards: str) -> tuple[int, int]:
    with make_loader(shards, None, None, 100, policy=None, epochs=None, anneal=True, shuffle=True) as loader:
        counts = [int((loader.weights() > 0).sum()) for _ in loader]
        return len(counts), sum(counts)


def test_ranks_evaluate_a_part_each(shards: str) -> None:
    found = [rank.result() for rank in start_ranks(evaluate_together, 3, shards)]
    assert {steps for steps, _ in found} == {4}
    assert sum(count for _, count in found) == SAMPLES


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"rank": 1}, "go together"),
        ({"world_size": 2}, "go together"),
        ({"rank": 2, "world_size": 2}, r"rank=2 is outside \[0, world_size=2\)"),
        ({"rank": 0, "world_size": 0}, "world_size"),
        ({"rank": 0, "world_size": 2, "process_group": object()}, "process_group= says rank and world size"),
        ({"agree": list}, "agree= is a function, and goes with rank="),
        ({"rank": 0, "world_size": 2, "agree": 3}, "agree= is a function"),
        ({"rank": 0, "world_size": 2, "agree": list, "replicas": object()}, "agree= is for jobs without it"),
    ],
)
def test_a_choice_that_cannot_be_meant(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RankChoice(**choice)


def test_a_group_without_torch_distributed() -> None:
    with pytest.raises(ConfigError, match=r"torch\.distributed was given, and it is not initialised"):
        _ = Ranks(RankChoice(process_group=object())).rank


@pytest.mark.parametrize("answer", [None, ["x"], ["x", 3], ("x", "y")])
def test_an_agree_that_gives_something_else(answer: Any) -> None:
    ranks = Ranks(RankChoice(rank=0, world_size=2, agree=lambda word: answer))
    with pytest.raises(RanksError, match="must give a list of 2 texts"):
        ranks.together("meet", lambda: 1)


def test_processes_that_say_they_are_the_same_rank() -> None:
    ranks = Ranks(RankChoice(rank=0, world_size=2, agree=lambda word: [word, word]))
    with pytest.raises(RanksError, match=r"say that they are ranks \[0, 0\] of 2"):
        ranks.together("meet", lambda: 1)


def given_a_wrong_world(_: Connection, shards: str, url: str) -> str:
    with make_loader(shards, url, "wrong", 16, rank=dist.get_rank(), world_size=3) as loader:
        next(loader.epochs())
    return str(score)


def test_a_world_size_that_is_not_torch_distributeds(server: Server, shards: str) -> None:
    for rank in start_ranks(given_a_wrong_world, 2, shards, server.url):
        assert rank.result().startswith("ConfigError: world_size=3, and torch.distributed has 2 ranks")
