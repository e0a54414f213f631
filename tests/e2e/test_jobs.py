"""Jobs of one run: one that its launcher restarts, one that follows a dead one, and two by mistake."""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.rank_processes import start_ranks
from tests.e2e.torchrun import free_port, torchrun_command
from tests.e2e.training import make_loader, score, train_pass

RESTART_JOB = Path(__file__).with_name("torchrun_restart_job.py")


def test_torchrun_restarts_a_job_and_its_next_attempt_has_the_run_at_once(
    server: Server, shards: str, tmp_path: Path
) -> None:
    nodes = ("--nnodes", "1", "--master-port", str(free_port()), "--max-restarts", "1")
    ended = torchrun_command(RESTART_JOB, shards, server.url, tmp_path, nproc=2, options=nodes)
    assert ended.code == 0, ended.output
    assert "waiting up to" not in ended.output  # for the lease of the first attempt
    found: list[Any] = [
        [json.loads((tmp_path / f"seen-{attempt}-{rank}.json").read_text()) for rank in range(2)] for attempt in (0, 1)
    ]
    assert found[1][0]["generations"] == [1, 2]  # the plan that the first attempt had begun, and one of its own
    for epoch in ("1", "2"):
        seen = [number for attempt in found for rank in attempt for number in rank.get(epoch, [])]
        assert len(seen) == len(set(seen)) > 0
    assert server.info("restarted").barrier_timeouts == 0


def hold(answers: Connection, shards: str, url: str, run: str = "held") -> list[list[int]]:
    with make_loader(shards, url, run, 16, epochs=2) as loader:
        found = []
        for epoch in loader.epochs():
            if epoch == 1:
                answers.send("holds it")
                answers.recv()
            found.append(train_pass(loader))
        assert loader.metrics()["scores_lost"] == 0
        return found


def try_to_join(_: Connection, shards: str, url: str) -> str:
    with make_loader(shards, url, "held", 32, epochs=2) as loader:
        next(loader.epochs())
    return "joined"


def test_a_second_job_is_refused_and_the_first_loses_nothing(server: Server, shards: str) -> None:
    (first, other) = start_ranks(hold, 2, shards, server.url)
    assert [first.result(), other.result()] == ["holds it"] * 2
    (second,) = start_ranks(try_to_join, 1, shards, server.url)
    text = second.result()  # once it has seen the first one's heartbeat
    assert text.startswith("RunBusyError: run 'held' is held by another process on host ")
    assert f"pid {first.process.pid}" in text
    first.answers.send("go on")
    other.answers.send("go on")
    found = [first.result(), other.result()]
    assert sorted(found[0][0] + found[1][0]) == list(range(SAMPLES))
    info = server.info("held")
    assert info.generation == 1
    assert info.stored_scores == sum(len(seen) for rank in found for seen in rank)
    np.testing.assert_array_equal(server.scores("held"), score_of_all())


def score_of_all() -> np.ndarray:
    return score(torch.arange(SAMPLES)).numpy()


def crash(answers: Connection, shards: str, url: str, run: str, checkpoint: Path) -> None:
    loader = make_loader(shards, url, run, 16, epochs=2)
    next(loader.epochs())
    seen = train_pass(loader, 3)
    assert loader.flush()
    torch.save(loader.state_dict(), checkpoint)
    answers.send(seen)
    answers.recv()


def follow(_: Connection, shards: str, url: str, run: str, checkpoint: Path, takeover: bool) -> list[int]:
    with make_loader(shards, url, run, 24, epochs=2, takeover=takeover) as loader:
        loader.load_state_dict(torch.load(checkpoint))
        next(loader.epochs())
        return train_pass(loader)


@pytest.mark.parametrize("takeover", [True, False], ids=["takeover", "lease"])
def test_the_run_of_a_dead_job_is_had_by_takeover_or_once_its_lease_has_run_out(
    takeover: bool, server: Server, shards: str, tmp_path: Path
) -> None:
    run, checkpoint = f"crashed-{takeover}", tmp_path / "checkpoint.pt"
    (dead,) = start_ranks(crash, 1, shards, server.url, run, checkpoint)
    seen = dead.result()
    dead.kill()
    (follower,) = start_ranks(follow, 1, shards, server.url, run, checkpoint, takeover)
    rest = follower.result(90)
    assert (len(seen), len(rest)) == (48, SAMPLES - 48)
    assert sorted(seen + rest) == list(range(SAMPLES))  # each once
    np.testing.assert_array_equal(server.scores(run), score_of_all())
