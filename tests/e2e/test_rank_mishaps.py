"""What goes wrong around an epoch's opening, or comes in an unusual order: nobody is left alone with it."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from infobatch_stream import InfoBatchStreamDataset, RanksError, RunNotFoundError, Timeouts
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.dataset_arguments import dataset_arguments
from tests.e2e.rank_processes import start_ranks
from tests.e2e.training import make_loader, number, score, train_pass
from tests.suspend import suspend

QUICK = Timeouts(connect_timeout_s=5, call_timeout_s=2, plan_timeout_s=5, flush_timeout_s=5, agree_timeout_s=20)


def ask_before_the_world(_: Connection, shards: str, url: str, store: str) -> dict[str, Any]:
    rank = dist.get_rank()
    dist.destroy_process_group()
    loader = make_loader(shards, url, "asked-early", 16)
    validation = make_loader(shards, None, None, 16, policy=None, epochs=None, anneal=True, shuffle=False)
    plain = InfoBatchStreamDataset(shards, policy=None, batch_size=16).map(number)
    alone = [len(loader), len(validation), len(plain) // 16]
    pickle.dumps(plain)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    together = [len(loader), len(validation), len(plain) // 16]
    next(loader.epochs())
    seen = train_pass(loader)
    loader.close()
    return {"alone": alone, "together": together, "seen": seen, "rows": sum(1 for _ in plain)}


def test_a_length_that_is_asked_for_before_the_world_is_made_is_of_one_rank_for_then_only(
    server: Server, shards: str, tmp_path: Path
) -> None:
    ranks = start_ranks(ask_before_the_world, 2, shards, server.url, str(tmp_path / "store"))
    found = [rank.result() for rank in ranks]
    for rank in found:
        assert rank["alone"] == [64] * 3
        assert rank["together"] == [32] * 3
        assert rank["rows"] == 32 * 16
    assert sorted(found[0]["seen"] + found[1]["seen"]) == list(range(SAMPLES))


def unpickle(_: Connection, pickled: bytes) -> list[int]:
    with pickle.loads(pickled) as dataset:
        dataset.set_epoch(0)
        seen = []
        for _step in range(dataset.steps):
            dataset.skip()
        for _number, index, weight in dataset:
            seen += [index] if weight else []
        return seen


def test_a_dataset_that_is_pickled_into_ranks_finds_its_rank_there(server: Server, shards: str) -> None:
    dataset = InfoBatchStreamDataset(
        shards,
        **dataset_arguments(url=server.url, run="pickled", epochs=2, anneal=False, batch_size=16, timeouts=QUICK),
    ).map(number)
    for rank in start_ranks(unpickle, 2, pickle.dumps(dataset)):
        text = rank.result()
        assert "a second pass over epoch 0 after updates" in text  # they have opened one epoch together
    assert server.info("pickled").generation == 1


def with_another_default_device(_: Connection, shards: str, url: str) -> list[int]:
    torch.set_default_device("meta")
    with make_loader(shards, url, "default-device", 16, num_workers=1) as loader:
        next(loader.epochs())
        seen = []
        for numbers in loader:
            with torch.device("cpu"):
                loader.update(torch.zeros(16))
            seen += numbers[loader.weights() > 0].tolist()
        return seen


def test_torchs_default_device_changes_nothing(server: Server, shards: str) -> None:
    first, second = (rank.result() for rank in start_ranks(with_another_default_device, 2, shards, server.url))
    assert sorted(first + second) == list(range(SAMPLES))


def fork_and_train(answers: Connection, shards: str, url: str) -> str:
    torch.set_num_threads(2)
    torch.ones(512, 512) @ torch.ones(512, 512)  # torch's threads are there
    with make_loader(shards, url, "before-the-fork", 16, rank=0, world_size=1) as before:
        next(before.epochs())
        train_pass(before, 3)
        if child := os.fork():
            return str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        loader = make_loader(shards, url, "after-the-fork", 16, rank=0, world_size=1)
        next(loader.epochs())
        train_pass(loader, 2)
        loader.close()
        os._exit(7)


def test_a_forked_child_makes_a_loader_of_its_own(server: Server, shards: str) -> None:
    (rank,) = start_ranks(fork_and_train, 1, shards, server.url)
    assert rank.result() == "7"
    assert server.info("after-the-fork").stored_scores == 32


def test_a_meeting_that_failed_is_held_again(server: Server, shards: str) -> None:
    calls = []

    def agree(word: str) -> list[str]:
        calls.append(word)
        if len(calls) == 1:
            raise OSError("the network was away")
        return [word, word.replace('"place": [0, 0]', '"place": [1, 0]').replace('"value": [0, 0', '"value": [1, 0')]

    with make_loader(shards, server.url, "second-try", 16, rank=0, world_size=2, agree=agree) as loader:
        with pytest.raises(OSError, match="the network was away"):
            next(loader.epochs())
        assert next(loader.epochs()) == 0
        assert len(loader) == 32


def without_a_place_for_plans(_: Connection, shards: str, url: str, good: str) -> list[Any]:
    found: list[Any] = []
    with make_loader(shards, url, "no-place", 16, timeouts=QUICK) as loader:
        assert loader._ranks.num_nodes == 1
        if dist.get_rank() == 0:
            tempfile.tempdir = "/nowhere"
        try:
            next(loader.epochs())
        except (OSError, RanksError) as error:
            found.append(f"{type(error).__name__}: {error}")
        tempfile.tempdir = good
        found.append(next(loader.epochs()))
        return found


def test_a_plan_that_one_rank_cannot_lay_down_is_told_to_all_and_may_be_tried_again(
    server: Server, shards: str, tmp_path: Path
) -> None:
    ranks = start_ranks(without_a_place_for_plans, 2, shards, server.url, str(tmp_path))
    first, second = (rank.result() for rank in ranks)
    assert first[0].startswith("FileNotFoundError: ")
    assert second[0].startswith("RanksError: rank 0 could not fetch the plan of epoch 0: FileNotFoundError: ")
    assert first[1] == second[1] == 0


def with_replicas_alone(_: Connection, shards: str, url: str) -> None:
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    with make_loader(shards, url, "replicas-alone", 16, replicas=groups[dist.get_rank() // 2]) as loader:
        next(loader.epochs())


def test_replicas_without_the_group_that_they_replicate(server: Server, shards: str) -> None:
    for rank in start_ranks(with_replicas_alone, 4, shards, server.url):
        assert "give process_group= the latter" in rank.result(20)


def stop_after_other_steps(_: Connection, shards: str, url: str) -> None:
    with make_loader(shards, url, "other-steps", 16) as loader:
        next(loader.epochs(max_steps=5 + dist.get_rank()))


def test_other_numbers_of_steps(server: Server, shards: str) -> None:
    for rank in start_ranks(stop_after_other_steps, 2, shards, server.url):
        assert "could not open epoch 0: max_steps is 5 on rank 0; 6 on rank 1" in rank.result()


def evaluate_more_on_rank_0(_: Connection, shards: str) -> list[int]:
    with make_loader(shards, None, None, 16, policy=None, epochs=None, anneal=True) as loader:
        if dist.get_rank() == 0:
            list(loader)
        return [n for numbers in loader for n in numbers[loader.weights() > 0].tolist()]


def test_a_rank_that_has_evaluated_once_more_has_the_same_order(shards: str) -> None:
    first, second = (rank.result() for rank in start_ranks(evaluate_more_on_rank_0, 2, shards))
    assert sorted(first + second) == list(range(SAMPLES))


def test_closing_gives_the_run_back_though_a_warning_is_an_error(server: Server, shards: str) -> None:
    loader = make_loader(shards, server.url, "closed-by-force", 16)
    next(loader.epochs())
    list(loader.ticketed())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="64 of 64 batches of epoch 0 were never updated"):
            loader.close()
    loader.close()
    with make_loader(shards, server.url, "closed-by-force", 16, if_exists="restart") as again:
        assert next(again.epochs()) == 0


def test_going_on_at_an_epoch_of_a_run_that_is_not_there(server: Server, shards: str) -> None:
    with make_loader(shards, server.url, "typo", 16) as loader:
        with pytest.raises(RunNotFoundError, match=r"there is no run .typo. at .* to resume at epoch 3"):
            loader.set_epoch(3)
        with pytest.raises(RunNotFoundError):
            server.info("typo")
        loader.set_epoch(0)
        train_pass(loader, 2)
        assert loader.state_dict()["positions"] == 32
    assert server.info("typo").stored_scores == 32


def without_a_pusher(answers: Connection, shards: str, url: str) -> list[str]:
    """The second node holds replicas alone, so that its leader pushes nothing."""
    rank = dist.get_rank()
    os.environ["GROUP_RANK"] = str(rank // 2)
    data, copies = [dist.new_group([0, 1]), dist.new_group([2, 3])], [dist.new_group([0, 2]), dist.new_group([1, 3])]
    impatient = Timeouts(connect_timeout_s=5, call_timeout_s=1, plan_timeout_s=3, flush_timeout_s=1, agree_timeout_s=60)
    with make_loader(
        shards,
        url,
        "no-pusher",
        16,
        epochs=4,
        timeouts=impatient,
        process_group=data[rank // 2],
        replicas=copies[rank % 2],
    ) as loader:
        plans = []
        for epoch in loader.epochs():
            plans.append(loader.plan.plan_id[:5])
            for numbers in loader:
                loader.update(score(numbers))
            if epoch in (0, 1):
                loader.flush(10 if epoch == 0 else 0.1)
                answers.send(f"trained {epoch}")
                answers.recv()
        return plans


def test_an_outage_is_over_for_a_node_without_a_pusher_too(own_server: Server, shards: str) -> None:
    ranks = start_ranks(without_a_pusher, 4, shards, own_server.url, timeout_s=60)
    assert [rank.result() for rank in ranks] == ["trained 0"] * 4
    suspend(own_server.process.pid)
    for rank in ranks:
        rank.answers.send("go on")
    assert [rank.result() for rank in ranks] == ["trained 1"] * 4
    own_server.process.send_signal(signal.SIGCONT)
    for rank in ranks:
        rank.answers.send("go on")
    found = [rank.result() for rank in ranks]
    assert found[0] == found[1] == found[2] == found[3]
    assert found[0][1] == "full:"
    assert found[0][3] != "full:"
