"""drops="remember" on two processes: what either rank drops, the next plan leaves out for both."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
import torch

from infobatch_client.rpc.client import ScoreClient
from infobatch_stream import Connection as ServerConnection
from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.rank_processes import start_ranks
from tests.e2e.training import number, score, train_pass

B = 16
EPOCHS = 6
KEPT = [sample for sample in range(SAMPLES) if sample % 5 < 2]
DROPPED = SAMPLES - len(KEPT)
SCORES = np.where(np.isin(np.arange(SAMPLES), KEPT), score(torch.arange(SAMPLES)).numpy(), np.float32("nan"))


def keeps(sample: dict[str, Any]) -> bool:
    """Two fifths, by the sample alone."""
    return int(sample["txt"]) % 5 < 2


def make_loader(shards: str, url: str, run: str, workers: int, **settings: Any) -> InfoBatchLoader:
    asked = {"epochs": EPOCHS, "seed": 3, "drops": "remember", **settings}
    dataset = InfoBatchStreamDataset(shards, url=url, run=run, **asked).select(keeps).map(number)
    return InfoBatchLoader(dataset, B, workers)


def train(loader: InfoBatchLoader, stop: int | None = None) -> dict[str, Any]:
    """What a rank saw of a pass."""
    steps, dropped = len(loader), loader.plan.dropped
    seen = train_pass(loader, stop)
    return {
        "seen": seen,
        "steps": steps,
        "dropped": dropped,
        "kept": loader.plan.kept_between(0, SAMPLES).tolist(),
        "rows_dropped": loader.metrics()["rows_dropped"],
        "plan_id": loader.plan.plan_id,
    }


def train_into_epoch_2(answers: Connection, shards: str, url: str, run: str, stop: int) -> dict[str, Any]:
    """Two epochs and `stop` batches of the third; then as a job that has crashed."""
    loader = make_loader(shards, url, run, 1)
    epochs = loader.epochs()
    found = []
    for _ in range(3):
        found.append(train(loader, stop if next(epochs) == 2 else None))
    state = loader.state_dict()
    assert loader.flush(30)
    loader._workers.close()  # the run is neither ended nor detached
    return {"epochs": found, "state": state}


def go_on_and_forget(answers: Connection, shards: str, url: str, run: str, state: Any) -> list[dict[str, Any]]:
    """The rest of epoch 2 and epoch 3; then, once told to, epochs 4 and 5."""
    with make_loader(shards, url, run, 0, connection=ServerConnection(takeover=True)) as loader:
        loader.load_state_dict(state)
        epochs = loader.epochs()
        found = []
        for epoch in epochs:
            found.append(train(loader))
            if epoch == 3:
                assert loader.flush(30)
                answers.send("before epoch 4")
                answers.recv()
        return found


def both(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """What the ranks saw of one pass, which is the same but for the rows that each has had."""
    first = ranks[0]
    for rank in ranks[1:]:
        for name in ("steps", "dropped", "kept", "plan_id"):
            assert rank[name] == first[name], name
    seen = sorted(number for rank in ranks for number in rank["seen"])
    return {**first, "seen": seen, "rows_dropped": [rank["rows_dropped"] for rank in ranks]}


@pytest.mark.parametrize("world_after", [2, pytest.param(1, marks=pytest.mark.long)])
def test_what_either_rank_drops_is_left_out_for_both_until_it_is_forgotten(
    world_after: int, server: Server, shards: str, run: str
) -> None:
    stop = 5
    ranks = [rank.result() for rank in start_ranks(train_into_epoch_2, 2, shards, server.url, run, stop)]
    first, second, third = (both(list(passes)) for passes in zip(*(rank["epochs"] for rank in ranks), strict=True))
    assert (first["dropped"], first["steps"], first["seen"]) == (0, -(-SAMPLES // (2 * B)), KEPT)
    assert sum(first["rows_dropped"]) == DROPPED
    assert min(first["rows_dropped"]) > 0
    assert second["dropped"] == third["dropped"] == DROPPED
    assert second["steps"] == -(-len(second["kept"]) // (2 * B))
    assert second["seen"] == second["kept"]
    assert set(second["seen"]) < set(KEPT)
    assert second["rows_dropped"] == third["rows_dropped"] == [0, 0]
    np.testing.assert_array_equal(server.scores(run), SCORES)

    state = ranks[0]["state"]
    assert ranks[1]["state"] == state
    resumed = start_ranks(go_on_and_forget, world_after, shards, server.url, run, state)
    assert {rank.result() for rank in resumed} == {"before epoch 4"}
    client = ScoreClient(server.url)
    assert client.forget_drops(pb.ForgetDropsRequest(run=run)).forgotten == DROPPED
    client.close()
    for rank in resumed:
        rank.answers.send("go on")
    rest, fourth, fifth, last = (both(list(ps)) for ps in zip(*(rank.result() for rank in resumed), strict=True))
    assert (rest["plan_id"], rest["dropped"]) == (third["plan_id"], DROPPED)
    assert sorted(third["seen"] + rest["seen"]) == third["kept"], "the rest of the epoch, and nothing else"
    assert rest["steps"] == -(-(len(third["kept"]) - stop * 2 * B) // (world_after * B))
    assert (fourth["dropped"], fourth["seen"]) == (DROPPED, fourth["kept"])
    assert fifth["dropped"] == 0
    assert set(range(SAMPLES)) - set(KEPT) < set(fifth["kept"]), "those that are forgotten come back"
    assert sum(fifth["rows_dropped"]) == DROPPED
    assert (last["dropped"], last["kept"], last["seen"]) == (DROPPED, KEPT, KEPT)
    np.testing.assert_array_equal(server.scores(run), SCORES)
