"""The server keeps silent when an epoch is to begin: all ranks train it unpruned, and lose nothing."""

from __future__ import annotations

import signal
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from infobatch_stream import Timeouts
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.rank_processes import start_ranks
from tests.e2e.training import make_loader, score, train_pass
from tests.suspend import suspend

IMPATIENT = Timeouts(connect_timeout_s=5, call_timeout_s=1, plan_timeout_s=3, flush_timeout_s=1, agree_timeout_s=60)


def train_through(answers: Connection, shards: str, url: str) -> dict[str, Any]:
    with make_loader(shards, url, "silent", 16, epochs=4, timeouts=IMPATIENT) as loader:
        found: dict[str, Any] = {"plans": [], "seen": []}
        for epoch in loader.epochs():
            found["plans"].append(loader.plan.plan_id)
            found["seen"].append(train_pass(loader))
            if epoch in (0, 1):
                assert loader.flush(10) or epoch == 1
                answers.send(f"trained {epoch}")
                answers.recv()
        assert loader.flush(30)
        found["metrics"] = loader.metrics()
        return found


def test_all_ranks_train_an_epoch_unpruned_whose_plan_no_node_can_have(own_server: Server, shards: str) -> None:
    ranks = start_ranks(train_through, 2, shards, own_server.url, timeout_s=60)
    assert [rank.result() for rank in ranks] == ["trained 0"] * 2
    suspend(own_server.process.pid)
    for rank in ranks:
        rank.answers.send("go on")
    assert [rank.result() for rank in ranks] == ["trained 1"] * 2
    own_server.process.send_signal(signal.SIGCONT)
    for rank in ranks:
        rank.answers.send("go on")
    found = [rank.result() for rank in ranks]
    assert found[0]["plans"] == found[1]["plans"]
    assert found[0]["plans"][1].startswith("full:")
    assert not found[0]["plans"][2].startswith("full:")
    assert sorted(found[0]["seen"][1] + found[1]["seen"][1]) == list(range(SAMPLES))
    assert len(found[0]["seen"][2]) < SAMPLES / 2
    assert all(rank["metrics"]["scores_lost"] == 0 for rank in found)
    info = own_server.info("silent")
    assert info.stored_scores == sum(len(seen) for rank in found for seen in rank["seen"])
    np.testing.assert_array_equal(own_server.scores("silent"), score(torch.arange(SAMPLES)).numpy())
    assert not dist.is_initialized()
