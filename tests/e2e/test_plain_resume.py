"""A training with a plain DataLoader resumes where its updates ended, with another batch size and other workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from infobatch_stream import (
    ConfigError,
    InfoBatchLoader,
    RunConflictError,
    StateError,
)
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.test_plain_loader import B, make_dataset, score, train_epochs


@pytest.mark.parametrize(
    ("batches", "workers", "batch_size", "workers_after"), [(5, 2, 50, 0), (3, 0, 64, 3), (7, 3, 31, 2)]
)
def test_a_training_goes_on_where_its_updates_ended(
    batches: int, workers: int, batch_size: int, workers_after: int, server: Server, shards: str
) -> None:
    run = f"plain-resume-{batches}"
    seen = []
    with make_dataset(server, shards, run) as dataset:
        train_epochs(dataset, DataLoader(dataset, batch_size=B), range(1))
        dataset.set_epoch(1)
        for number, (numbers, index, weight) in enumerate(DataLoader(dataset, batch_size=B, num_workers=workers)):
            if number == batches:
                break  # this batch was read, and isn't trained
            dataset.update(score(numbers), index, weight)
            seen += index.tolist()
        plan_id, state = dataset.plan.plan_id, dataset.state_dict()
        assert dataset.progress() == 1 + batches * B / dataset.plan.kept
    with make_dataset(server, shards, run, batch_size=batch_size) as dataset:
        dataset.load_state_dict(state)
        assert dataset.epoch == 1
        with pytest.raises(ConfigError, match=r"set_epoch\(0\): epoch 1 is next"):
            dataset.set_epoch(0)
        dataset.set_epoch(1)
        assert dataset.plan.plan_id == plan_id
        for numbers, index, weight in DataLoader(dataset, batch_size=batch_size, num_workers=workers_after):
            dataset.update(score(numbers), index, weight)
            seen += index.tolist()
        real = [number for number in seen if number >= 0]
        assert sorted(real) == dataset.plan.kept_between(0, SAMPLES).tolist()
        assert dataset.progress() == 2
        assert dataset.state_dict()["positions"] == len(real)
    np.testing.assert_array_equal(server.scores(run)[real], score(torch.tensor(real)).numpy())


def test_states_pass_between_dataset_and_loader(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-to-loader") as dataset:
        dataset.set_epoch(0)
        dataset.skip()
        state = dataset.state_dict()
    with InfoBatchLoader(make_dataset(server, shards, "plain-to-loader"), B) as loader:
        loader.load_state_dict(state)
        assert next(loader.epochs()) == 0
        assert len(loader) == 15
        next(iter(loader))
        loader.skip()
        state = loader.state_dict()
    with make_dataset(server, shards, "plain-to-loader") as dataset:
        dataset.load_state_dict(state)
        assert dataset.steps == len(dataset) / B == 14
        dataset.set_epoch(0)
        assert dataset.steps == 14


def test_an_epoch_is_begun_at_its_start_without_a_state(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-begin") as dataset:
        train_epochs(dataset, DataLoader(dataset, batch_size=B), range(2))
    with make_dataset(server, shards, "plain-begin", batch_size=32) as dataset:
        with pytest.raises(ConfigError, match=r"set_epoch\(5\): the run's schedule is of 5 epochs"):
            dataset.set_epoch(5)
        dataset.set_epoch(1)
        assert dataset.plan.epoch == 1
        assert dataset.plan.never_scored == 0
    with make_dataset(server, shards, "plain-begin") as dataset, pytest.raises(RunConflictError, match="load a state"):
        dataset.set_epoch(0)


def test_a_state_is_loaded_before_the_first_epoch_or_not_at_all(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-late") as dataset:
        with pytest.raises(StateError, match="no resume state"):
            dataset.load_state_dict({})
        dataset.set_epoch(0)
        state = dataset.state_dict()
        dataset.load_state_dict(state)  # where it stands already
        dataset.skip()
        with pytest.raises(ConfigError, match="before the first epoch"):
            dataset.load_state_dict(state)
