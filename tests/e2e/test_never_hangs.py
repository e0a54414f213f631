"""Whatever the ranks of a job do differently, and whichever of them dies: the others end, and say what happened."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from infobatch_client.ranks.ranks import Ranks
from infobatch_stream import ConfigError, Timeouts
from tests.e2e.conftest import SAMPLES, Server, make_shards
from tests.e2e.rank_processes import Rank, start_ranks
from tests.e2e.training import make_loader, score, train_pass

QUICK = Timeouts(connect_timeout_s=5, call_timeout_s=2, plan_timeout_s=5, flush_timeout_s=5, agree_timeout_s=8)
ENDS_WITHIN_S = 60  # each of these time-outs, and the machine's own pace


def results(ranks: list[Rank]) -> list[Any]:
    found = [rank.result(ENDS_WITHIN_S) for rank in ranks]
    for rank in ranks:
        rank.join()
    return found


# What may be asked on one rank alone.


def ask_on_rank_0(_: Connection, shards: str, url: str, run: str, ask: str) -> list[int]:
    with make_loader(shards, url, run, 16, epochs=2, timeouts=QUICK) as loader:
        counts = []
        first = dist.get_rank() == 0

        def asked() -> None:
            if first:
                len(loader) if ask == "len" else getattr(loader, ask)()

        asked()
        for _epoch in loader.epochs():
            asked()
            steps = 0
            for numbers in loader:
                loader.update(score(numbers))
                asked()
                steps += 1
            asked()
            counts.append(steps)
        asked()
        return counts


@pytest.mark.parametrize("ask", ["len", "progress", "metrics", "state_dict"])
def test_asking_on_rank_0_alone(ask: str, server: Server, shards: str) -> None:
    first, second = results(start_ranks(ask_on_rank_0, 2, shards, server.url, f"ask-{ask}", ask))
    assert first == second
    assert first[0] == -(-SAMPLES // 32)


def save_on_rank_0(_: Connection, shards: str, url: str, run: str) -> int:
    with make_loader(shards, url, run, 16, epochs=3, timeouts=QUICK) as loader:
        for _epoch in loader.epochs():
            train_pass(loader, 3)
            if dist.get_rank() == 0:
                loader.flush()
                time.sleep(0.3)  # what a checkpoint takes
        return loader.epoch


def test_rank_0_takes_its_time_between_epochs(server: Server, shards: str) -> None:
    assert results(start_ranks(save_on_rank_0, 2, shards, server.url, "takes-its-time")) == [3, 3]


# Leaving an epoch early.


def leave_early(_: Connection, shards: str, url: str, run: str, stops: tuple[int, int]) -> list[int]:
    with make_loader(shards, url, run, 16, epochs=3, timeouts=QUICK) as loader:
        return [len(train_pass(loader, stops[dist.get_rank()])) for _ in loader.epochs()]


def test_breaking_out_on_all_ranks(server: Server, shards: str) -> None:
    assert results(start_ranks(leave_early, 2, shards, server.url, "all-break", (4, 4))) == [[64] * 3, [64] * 3]


def test_breaking_out_on_one_rank(server: Server, shards: str) -> None:
    for text in results(start_ranks(leave_early, 2, shards, server.url, "one-breaks", (4, 5))):
        assert text == (
            "RanksError: the ranks could not open epoch 1: the position where the epoch before was left is 128 on "
            "rank 0; 160 on rank 1: give every rank the same shards, settings, batch_size and state, and leave an "
            "epoch at the same batch"
        )


def stop_after(_: Connection, shards: str, url: str, run: str) -> int:
    with make_loader(shards, url, run, 16, epochs=3, timeouts=QUICK) as loader:
        for epoch in loader.epochs():
            train_pass(loader)
            if epoch == dist.get_rank():
                break
        return loader.epoch


def test_a_rank_that_ends_an_epoch_before_the_others(server: Server, shards: str) -> None:
    first, second = results(start_ranks(stop_after, 2, shards, server.url, "one-ends"))
    assert first == 0
    assert "RanksError: rank 1 waited for the others to open epoch 1: a rank of the 2 has ended" in second


# Ranks that were given different things.


def open_with(
    _: Connection, shards: list[str], url: str, run: str, batch_sizes: list[int], states: list[Any], settings: Any
) -> str:
    rank = dist.get_rank()
    with make_loader(shards[rank], url, run, batch_sizes[rank], timeouts=QUICK, **settings[rank]) as loader:
        if states[rank] is not None:
            loader.load_state_dict(states[rank])
        next(loader.epochs())
        return "opened"


@pytest.mark.parametrize(
    ("field", "batch_sizes", "settings"),
    [
        ("batch_size is 16 on rank 0; 8 on rank 1", [16, 8], [{}, {}]),
        ("seed is 3 on rank 0; 4 on rank 1", [16, 16], [{}, {"seed": 4}]),
        ("schedule is", [16, 16], [{}, {"epochs": 7}]),
        ("policy is", [16, 16], [{}, {"prune_ratio": 0.4}]),
        ("remainder is", [16, 16], [{}, {"remainder": "drop"}]),
    ],
    ids=["batch_size", "seed", "epochs", "policy", "remainder"],
)
def test_ranks_with_other_arguments(
    field: str, batch_sizes: list[int], settings: list[Any], server: Server, shards: str
) -> None:
    run = "differ"
    for text in results(start_ranks(open_with, 2, [shards] * 2, server.url, run, batch_sizes, [None, None], settings)):
        assert text.startswith(f"RanksError: the ranks could not open epoch 0: {field}")


def test_ranks_with_other_shards(server: Server, shards: str, tmp_path: Path) -> None:
    other = str(make_shards(tmp_path, [100, 1, 307, 250, 350]))
    for text in results(
        start_ranks(open_with, 2, [shards, other], server.url, "shards", [16] * 2, [None] * 2, [{}, {}])
    ):
        assert text.startswith("RanksError: the ranks could not open epoch 0: manifest_fingerprint is ")


def test_a_state_that_one_rank_has_not_loaded(server: Server, shards: str) -> None:
    with make_loader(shards, server.url, "one-state", 32) as loader:
        next(loader.epochs())
        train_pass(loader, 3)
        state = loader.state_dict()
    for states in ([state, None], [None, {**state, "positions": 32}]):
        for text in results(
            start_ranks(open_with, 2, [shards] * 2, server.url, "one-state", [16] * 2, states, [{}, {}])
        ):
            assert text.startswith("RanksError: the ranks could not open epoch 0: loaded state is ")


def open_more_on_rank_0(_: Connection, shards: str, url: str) -> str:
    with (
        make_loader(shards, url, "one-loader", 16, timeouts=QUICK) as loader,
        make_loader(shards, url, "other-loader", 16, timeouts=QUICK) as other,
    ):
        next((loader if dist.get_rank() == 0 else other).epochs())
        return "opened"


def test_loaders_opened_in_another_order(server: Server, shards: str) -> None:
    for text in results(start_ranks(open_more_on_rank_0, 2, shards, server.url)):
        assert text.startswith("RanksError: the ranks could not open epoch 0: run is ")


def test_a_server_that_rank_0_cannot_reach(shards: str) -> None:
    first, second = results(
        start_ranks(open_with, 2, [shards] * 2, "127.0.0.1:1", "nowhere", [16] * 2, [None] * 2, [{}, {}])
    )
    assert first.startswith("ServerUnreachableError: no score server answered at url='127.0.0.1:1' within 5 s")
    assert second.startswith("RanksError: rank 0 could not join the run: ServerUnreachableError: no score server")


# A rank that is killed.


def until_killed(answers: Connection, shards: str, url: str, run: str, phase: str, workers: int) -> str:
    def pause(at: str) -> None:
        if phase == at and dist.get_rank() == 1:
            answers.send(at)
            answers.recv()

    dist.barrier()
    pause("attach")
    with make_loader(shards, url, run, 16, epochs=4, timeouts=QUICK, num_workers=workers) as loader:
        for epoch in loader.epochs():
            for step, numbers in enumerate(loader):
                gradient = score(numbers).mean()
                dist.all_reduce(gradient)  # as training would
                loader.update(score(numbers))
                if epoch == 1 and step == 2:
                    pause("mid-epoch")
            if epoch == 1:
                pause("end of epoch")
        return "trained to the end"


@pytest.mark.parametrize(
    ("phase", "workers"),
    [
        ("attach", 0),
        ("mid-epoch", 2),
        ("end of epoch", 2),
        pytest.param("attach", 2, marks=pytest.mark.long),
        pytest.param("mid-epoch", 0, marks=pytest.mark.long),
        pytest.param("end of epoch", 0, marks=pytest.mark.long),
    ],
)
def test_a_rank_is_killed(phase: str, workers: int, server: Server, shards: str) -> None:
    run = f"killed-{phase.replace(' ', '-')}-{workers}"
    ranks = start_ranks(until_killed, 3, shards, server.url, run, phase, workers, timeout_s=8)
    assert ranks[1].result(ENDS_WITHIN_S) == phase
    orphans = children(ranks[1].process.pid)
    ranks[1].kill()
    for rank in (ranks[0], ranks[2]):
        text = rank.result(ENDS_WITHIN_S)
        rank.join()
        if phase == "mid-epoch":  # where the training's own all-reduce is what notices
            assert "Connection closed by peer" in text or "Connection reset" in text
        else:
            assert "waited for the others to" in text
            assert "has ended, or has not come within 8 s" in text
    assert bool(orphans) == (workers > 0 and phase != "attach")
    wait_for_end(orphans)


def children(pid: int | None) -> list[int]:
    """Children and theirs: the ranks' workers come from a fork server, which is where torch's own watch fails."""
    own = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return own + [grandchild for child in own for grandchild in children(child)]


def wait_for_end(pids: list[int]) -> None:
    """torch's workers look for their parent every few seconds."""
    deadline = time.monotonic() + ENDS_WITHIN_S
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"processes {left} were left behind"
        time.sleep(0.1)


def test_a_rank_is_killed_while_the_first_one_attaches(server: Server, shards: str) -> None:
    run = "killed-agreeing"
    patient = Timeouts(connect_timeout_s=5, plan_timeout_s=20, agree_timeout_s=60)
    holder = make_loader(shards, server.url, run, 48)
    next(holder.epochs())
    ranks = start_ranks(attach_when_free, 3, shards, server.url, run, patient, timeout_s=60)
    for rank in ranks:
        assert rank.result() == "about to open"
    ranks[1].kill()
    gone = "RanksError: rank 2 waited for the others to "
    assert gone in ranks[2].result(ENDS_WITHIN_S)
    holder.close()  # the lease is free: rank 0 has the run, and nobody to train it with
    assert "RanksError: rank 0 waited for the others to " in ranks[0].result(ENDS_WITHIN_S)
    for rank in ranks:
        rank.join()


def attach_when_free(answers: Connection, shards: str, url: str, run: str, timeouts: Timeouts) -> int:
    with make_loader(shards, url, run, 16, timeouts=timeouts) as loader:
        assert loader._ranks.num_nodes == 1  # they have met
        answers.send("about to open")
        return next(loader.epochs())


def test_the_first_rank_is_killed_after_it_has_attached(server: Server, shards: str) -> None:
    ranks = start_ranks(attach_and_wait, 2, shards, server.url, timeout_s=8)
    assert ranks[0].result(ENDS_WITHIN_S) == "attached"
    ranks[0].kill()
    text = ranks[1].result(ENDS_WITHIN_S)
    assert "RanksError: rank 1 waited for the others to open epoch 1" in text
    # Whoever comes next waits for its lease, and has the run.
    with make_loader(shards, server.url, "first-killed", 32, if_exists="restart", takeover=True) as loader:
        assert next(loader.epochs()) == 0


def attach_and_wait(answers: Connection, shards: str, url: str) -> str:
    with make_loader(shards, url, "first-killed", 16, timeouts=QUICK) as loader:
        epochs = loader.epochs()
        next(epochs)
        if dist.get_rank() == 0:
            answers.send("attached")
            answers.recv()
        train_pass(loader)
        next(epochs)
        return "opened the next epoch"


# Ranks without a group.


def test_torchrun_without_a_process_group(shards: str, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = pytest.raises(ConfigError, match=r"a launcher has started 2 processes, and torch\.distributed is not")
    with make_loader(shards, server.url, "no-group", 16) as loader, refused:
        next(loader.epochs())
    with make_loader(shards, server.url, "no-group", 16, rank=0, world_size=1) as loader:
        assert next(loader.epochs()) == 0


def test_a_world_without_a_way_to_agree(shards: str, server: Server) -> None:
    refused = pytest.raises(ConfigError, match=r"world_size=2, and torch\.distributed is not initialised")
    with make_loader(shards, server.url, "no-way", 16, rank=0, world_size=2) as loader, refused:
        next(loader.epochs())


def as_threads(act: Callable[[int], Any], count: int) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(act, range(count)))


def test_ranks_that_agree_by_a_function_of_the_users(shards: str, server: Server) -> None:
    meeting = threading.Barrier(2)
    words = ["", ""]

    def train(rank: int) -> list[int]:
        def agree(word: str) -> list[str]:
            words[rank] = word
            meeting.wait(30)
            heard = list(words)
            meeting.wait(30)
            return heard

        with make_loader(shards, server.url, "by-threads", 16, rank=rank, world_size=2, agree=agree) as loader:
            next(loader.epochs())
            return train_pass(loader)

    first, second = as_threads(train, 2)
    assert sorted(first + second) == list(range(SAMPLES))


def test_waiting_is_heard_by_signals() -> None:
    """`kill -INT` of a rank that waits for the others ends it at once."""
    ranks = start_ranks(wait_for_ever, 2, timeout_s=60)
    assert ranks[1].result() == "waiting"
    assert ranks[1].process.pid is not None
    os.kill(ranks[1].process.pid, signal.SIGINT)
    assert ranks[1].result(20).startswith("KeyboardInterrupt")


def wait_for_ever(answers: Connection) -> str:
    ranks = Ranks(timeout_s=600)
    ranks.compare("begin", dict, "")
    if dist.get_rank() == 0:
        answers.recv()
    answers.send("waiting")
    ranks.compare("go on", dict, "")
    return "everybody came"
