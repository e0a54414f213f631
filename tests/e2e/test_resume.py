"""A training stopped anywhere goes on in another process, with other workers and batches: nothing lost or repeated."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infobatch_client.run.options import Timeouts
from infobatch_stream import (
    ConfigError,
    InfoBatchLoader,
    InfoBatchStreamDataset,
    RunConflictError,
    ServerUnreachableError,
    StateError,
)
from tests.e2e.conftest import Server, make_shards
from tests.e2e.dataset_arguments import dataset_arguments
from tests.e2e.rank_processes import call_elsewhere


def to_number(sample: dict[str, Any]) -> int:
    return int(sample["txt"])


def score(values: torch.Tensor) -> torch.Tensor:
    return torch.sin(values.double()).float() + 1


def make_loader(url: str, shards: str, run: str, batch_size: int, workers: int, **more: Any) -> InfoBatchLoader:
    settings = {"epochs": 6, "delta": "0.9", "seed": 5, **more}
    return InfoBatchLoader(
        InfoBatchStreamDataset(shards, url=url, run=run, **dataset_arguments(**settings)).map(to_number),
        batch_size,
        workers,
    )


def first_part(
    url: str, shards: str, run: str, epoch_to_stop: int, batches: int, batch_size: int, workers: int
) -> dict[str, Any]:
    """Trains up to a batch of an epoch, and saves."""
    with make_loader(url, shards, run, batch_size, workers) as loader:
        for epoch in loader.epochs():
            seen: list[int] = []
            for number, values in enumerate(loader, start=1):
                loader.update(score(values))
                seen += values[loader.weights() > 0].tolist()
                if epoch == epoch_to_stop and number == batches:
                    break
            if epoch == epoch_to_stop:
                break
        return {"seen": seen, "state": loader.state_dict(), "progress": loader.progress()}


def train_until(server: Server, shards: str, run: str, *where: int) -> dict[str, Any]:
    """Trains in a process of its own up to (epoch, batches, batch_size, workers); what a checkpoint file would keep."""
    found: dict[str, Any] = json.loads(json.dumps(call_elsewhere(first_part, server.url, shards, run, *where)))
    return found


def rest_of(loader: InfoBatchLoader, epoch: int) -> list[int]:
    seen: list[int] = []
    for number in loader.epochs():
        for values in loader:
            loader.update(score(values))
            seen += values[loader.weights() > 0].tolist() if number == epoch else []
    return seen


@pytest.mark.parametrize(
    ("where", "batch_size", "workers"),
    [((2, 7, 64, 2), 50, 0), ((2, 1, 33, 0), 64, 3), ((1, 3, 200, 1), 7, 2), ((0, 4, 64, 0), 64, 2)],
)
def test_stopping_inside_an_epoch_loses_and_repeats_nothing(
    where: tuple[int, int, int, int], batch_size: int, workers: int, server: Server, shards: str
) -> None:
    run = "resume-" + "-".join(map(str, (*where, batch_size, workers)))
    stopped = train_until(server, shards, run, *where)
    loader = make_loader(server.url, shards, run, batch_size, workers)
    loader.load_state_dict(stopped["state"])
    assert loader.progress() == stopped["progress"]
    epochs = iter(loader.epochs())
    assert next(epochs) == where[0]
    plan = loader.plan
    kept = plan.kept_between(0, plan.num_samples).tolist()
    seen = list(stopped["seen"])
    for values in loader:
        loader.update(score(values))
        seen += values[loader.weights() > 0].tolist()
    assert sorted(seen) == kept
    assert loader.progress() == where[0] + 1
    loader.close()
    scores = server.scores(run)
    np.testing.assert_array_equal(scores[seen], score(torch.tensor(seen)).numpy())


def test_a_state_after_the_last_batch_goes_on_with_the_next_epoch(server: Server, shards: str) -> None:
    stopped = train_until(server, shards, "resume-end", 1, 10_000, 64, 0)
    assert stopped["progress"] == 2.0
    loader = make_loader(server.url, shards, "resume-end", 64, 0)
    loader.load_state_dict(stopped["state"])
    with loader:
        assert list(loader.epochs()) == [2, 3, 4, 5]


def test_a_run_rewound_to_an_earlier_state_trains_its_epochs_again(server: Server, shards: str) -> None:
    loader = make_loader(server.url, shards, "rewind", 64, 0)
    states, progress = [], []
    for _ in loader.epochs():
        states.append(loader.state_dict())
        for values in loader:
            loader.update(score(values))
        progress.append(loader.progress())
    loader.close()
    again = make_loader(server.url, shards, "rewind", 64, 0)
    again.load_state_dict(states[2])
    with again:
        rest_of(again, 2)
    assert progress == [1, 2, 3, 4, 5, 6]
    assert server.info("rewind").generation == 2


def test_a_run_that_has_trained_is_not_begun_again_by_accident(server: Server, shards: str) -> None:
    with make_loader(server.url, shards, "again", 64, 0) as loader:
        rest_of(loader, 0)
    first = server.info("again").run_id
    with (
        pytest.raises(RunConflictError, match=r"run 'again' has been trained .* load a state .* if_exists=.restart"),
        make_loader(server.url, shards, "again", 64, 0) as loader,
    ):
        next(iter(loader.epochs()))
    with make_loader(server.url, shards, "again", 64, 0, if_exists="restart") as loader:
        assert list(loader.epochs()) == list(range(6))
    assert server.info("again").run_id != first


def test_a_state_saved_after_closing_is_that_of_before(server: Server, shards: str) -> None:
    loader = make_loader(server.url, shards, "closed-state", 64, 0)
    for epoch in loader.epochs():
        for values in loader:
            loader.update(score(values))
        if epoch == 1:
            break
    loader.close()
    state = loader.state_dict()
    again = make_loader(server.url, shards, "closed-state", 64, 0)
    again.load_state_dict(state)
    with again:
        assert list(again.epochs()) == [2, 3, 4, 5]


def test_a_resume_that_failed_can_be_tried_again(own_server: Server, shards: str) -> None:
    stopped = train_until(own_server, shards, "retry", 2, 7, 64, 0)
    hasty = Timeouts(connect_timeout_s=2, call_timeout_s=1)  # enough for a server that answers, on a busy machine too
    loader = make_loader(own_server.url, shards, "retry", 64, 0, timeouts=hasty)
    loader.load_state_dict(stopped["state"])
    os.kill(own_server.process.pid, signal.SIGSTOP)
    with pytest.raises(ServerUnreachableError):
        next(loader.epochs())
    assert loader.state_dict() == stopped["state"]
    os.kill(own_server.process.pid, signal.SIGCONT)
    with loader:
        assert next(loader.epochs()) == 2
        assert loader.progress() == stopped["progress"]


def test_a_state_is_loaded_before_the_first_epoch_or_not_at_all(server: Server, shards: str) -> None:
    with make_loader(server.url, shards, "late", 64, 0) as loader:
        epochs = loader.epochs()
        next(epochs)
        state = loader.state_dict()
        list(epochs)
        with pytest.raises(ConfigError, match="before the first epoch"):
            loader.load_state_dict(state)


def test_a_state_that_belongs_elsewhere_is_refused_by_field(tmp_path: Path, server: Server, shards: str) -> None:
    with make_loader(server.url, shards, "mine", 64, 0) as loader:
        for _ in loader.epochs():
            loader.update(score(next(iter(loader))))
            state = loader.state_dict()
            break
    other = str(make_shards(tmp_path, [11, 12]))
    cases: list[tuple[InfoBatchLoader, dict[str, Any], str]] = [
        (make_loader(server.url, other, "mine", 64, 0), state, "manifest_fingerprint: the state has"),
        (
            make_loader(server.url, shards, "mine", 64, 0, seed=6),
            state,
            "seed: the state has 5, this dataset asks for 6",
        ),
        (
            make_loader(server.url, shards, "yours", 64, 0),
            state,
            "run: the state has mine, this dataset asks for yours",
        ),
        (make_loader(server.url, shards, "mine", 64, 0), {}, "no resume state of format 1"),
        (make_loader(server.url, shards, "mine", 64, 0), {**state, "positions": "x"}, "positions is 'x'"),
        (
            make_loader(server.url, shards, "mine", 64, 0),
            {**state, "positions": 10**9},
            "at epoch 0, position 1000000000",
        ),
    ]
    for loader, wrong, message in cases:
        with pytest.raises(StateError, match=message):
            loader.load_state_dict(wrong)
    loader = make_loader(server.url, shards, "mine", 64, 0)
    loader.load_state_dict({**state, "run_id": "00" * 16})
    with pytest.raises(StateError, match="run_id: the state has 0000"):
        next(iter(loader.epochs()))
    with make_loader(server.url, shards, "mine", 64, 0) as loader:
        loader.load_state_dict(state)
        next(iter(loader.epochs()))
        with pytest.raises(ConfigError, match="before the first epoch"):
            loader.load_state_dict(state)
