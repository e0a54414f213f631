"""Stopped inside an epoch on some ranks, resumed on others: no sample is lost, none comes twice."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest

from infobatch_stream import InfoBatchLoader
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.rank_processes import start_ranks
from tests.e2e.training import make_loader, score, train_pass


def train_until(
    _: Connection, shards: str, url: str, run: str, batch_size: int, workers: int, epoch: int, stop: int, state: Any
) -> dict[str, Any]:
    """Trains up to batch `stop` of `epoch`, and leaves the job as if it had crashed a moment later."""
    loader = make_loader(shards, url, run, batch_size, num_workers=workers)
    if state is not None:
        loader.load_state_dict(state)
    seen: list[int] = []
    for at in loader.epochs():
        last = at == epoch
        numbers = train_pass(loader, stop if last else None)
        seen = seen + numbers if at == epoch else seen
        if last:
            break
    found = {
        "seen": seen,
        "state": loader.state_dict(),
        "plan": loader.plan.kept_between(0, SAMPLES).tolist(),
        "plan_id": loader.plan.plan_id,
        "progress": loader.progress(),
    }
    assert loader.flush(30)
    loader._workers.close()  # the run is neither ended nor detached
    return found


def go_on(_: Connection, shards: str, url: str, run: str, batch_size: int, workers: int, state: Any) -> dict[str, Any]:
    """Trains what is left of the state's epoch and the whole next one."""
    with make_loader(shards, url, run, batch_size, num_workers=workers, takeover=True) as loader:
        loader.load_state_dict(state)
        epochs = loader.epochs()
        at, progress = next(epochs), loader.progress()
        plan_id, seen = loader.plan.plan_id, train_pass(loader)
        following = [next(epochs), train_pass(loader)]
        kept = loader.plan.kept_between(0, SAMPLES).tolist()
        return {
            "epoch": at,
            "progress": progress,
            "plan_id": plan_id,
            "seen": seen,
            "following": following,
            "following_plan": kept,
        }


@pytest.mark.parametrize(
    ("before", "after", "stop"),
    [
        pytest.param((2, 8, 2), (3, 5, 1), 7, id="2 to 3 ranks"),
        pytest.param((2, 8, 2), (1, 24, 0), 3, id="2 to 1"),
        pytest.param((4, 4, 0), (1, 16, 3), 1, id="4 to 1", marks=pytest.mark.long),
        pytest.param((1, 24, 1), (4, 7, 2), 11, id="1 to 4", marks=pytest.mark.long),
        pytest.param((3, 8, 0), (2, 12, 2), 20, id="3 to 2", marks=pytest.mark.long),
    ],
)
def test_an_epoch_goes_on_with_other_ranks_workers_and_batches(
    before: tuple[int, int, int], after: tuple[int, int, int], stop: int, server: Server, shards: str
) -> None:
    run = f"resume-{before[0]}-{after[0]}"
    world, batch_size, workers = before
    stopped = [
        rank.result()
        for rank in start_ranks(train_until, world, shards, server.url, run, batch_size, workers, 1, stop, None)
    ]
    state = stopped[0]["state"]
    assert all(rank["state"] == state for rank in stopped)
    assert state["positions"] == stop * world * batch_size

    world, batch_size, workers = after
    resumed = [rank.result() for rank in start_ranks(go_on, world, shards, server.url, run, batch_size, workers, state)]
    assert {rank["epoch"] for rank in resumed} == {1}
    assert {rank["plan_id"] for rank in resumed} == {state["plan_id"]}
    assert {rank["progress"] for rank in resumed} == {stopped[0]["progress"]}
    seen = [number for rank in stopped + resumed for number in rank["seen"]]
    assert sorted(seen) == stopped[0]["plan"]
    following = [number for rank in resumed for number in rank["following"][1]]
    assert sorted(following) == resumed[0]["following_plan"]
    scores = server.scores(run)
    np.testing.assert_array_equal(scores, score_all())


def score_all() -> np.ndarray:
    import torch

    return score(torch.arange(SAMPLES)).numpy()


def redo(_: Connection, shards: str, url: str, run: str, state: Any) -> dict[str, Any]:
    """Goes on from an older state, and trains the rest with other scores."""
    with make_loader(shards, url, run, 16, takeover=True, epochs=10) as loader:
        loader.load_state_dict(state)
        plans, kept = [], np.zeros(SAMPLES, bool)
        for _epoch in loader.epochs():
            for numbers in loader:
                loader.update(score(numbers) + 1000)
            plans.append(loader.plan.plan_id)
            kept[loader.plan.kept_between(0, SAMPLES)] = True
        return {"plans": plans, "kept": kept.tolist()}


def go_far(answers: Connection, shards: str, url: str, run: str) -> str:
    """Trains into epoch 8, having told its state at epoch 5; then waits for a word, and trains on."""
    loader: InfoBatchLoader = make_loader(shards, url, run, 16, epochs=10)
    plans = []
    for epoch in loader.epochs():
        if epoch == 5:
            answers.send(loader.state_dict())
        plans.append(loader.plan.plan_id)
        for step, numbers in enumerate(loader):
            loader.update(score(numbers))
            if epoch == 8 and step >= 2:
                assert loader.flush(30) or step > 2
                if step == 2:
                    answers.send(plans)
                    answers.recv()
    return "nobody has told this process anything"


def test_a_run_is_restored_from_an_older_state_while_its_old_job_still_lives(server: Server, shards: str) -> None:
    run = "rewound"
    old = start_ranks(go_far, 2, shards, server.url, run)
    states = [rank.result() for rank in old]
    plans = [rank.result() for rank in old]
    assert states[0] == states[1]
    assert plans[0] == plans[1]
    new = start_ranks(redo, 3, shards, server.url, run, states[0])
    redone = [rank.result() for rank in new]
    assert redone[0] == redone[1] == redone[2]
    assert len(redone[0]["plans"]) == 5
    assert not set(redone[0]["plans"]) & set(plans[0])  # drawn anew, with other uniforms
    before = server.scores(run)
    np.testing.assert_array_equal(before >= 1000, redone[0]["kept"])  # though epoch 8 had been reached before
    assert server.info(run).barrier_timeouts == 0
    for rank in old:
        rank.answers.send("go on")
    for rank in old:
        assert "SupersededError: superseded: generation 1" in rank.result()
    np.testing.assert_array_equal(server.scores(run), before)
