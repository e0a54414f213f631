"""A closed dataset or loader says so: when it is iterated, in workers too, opened or updated."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from infobatch_stream import ConfigError, InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import SAMPLES, Server

B = 64
CLOSED = "this dataset is closed"


def to_number(sample: dict[str, Any]) -> int:
    return int(sample["txt"])


def make_dataset(server: Server, shards: str, run: str) -> Any:
    return InfoBatchStreamDataset(shards, url=server.url, run=run, epochs=5, batch_size=B).map(to_number)


def make_validation(shards: str) -> Any:
    return InfoBatchStreamDataset(shards, policy=None, batch_size=B).map(to_number)


def train_pass(dataset: Any, loader: Any) -> None:
    for numbers, index, weight in loader:
        dataset.update(numbers.float(), index, weight)


@pytest.mark.parametrize(
    "call",
    [
        lambda dataset: dataset.set_epoch(0),
        lambda dataset: dataset.set_epoch(1),
        lambda dataset: dataset.update(torch.ones(B), torch.zeros(B, dtype=torch.int64), torch.ones(B)),
        lambda dataset: dataset.push(torch.ones(B), torch.zeros(B, dtype=torch.int64)),
        lambda dataset: dataset.skip(),
        lambda dataset: iter(dataset),
        lambda dataset: InfoBatchLoader(dataset, B),
    ],
    ids=["set_epoch(0)", "set_epoch(1)", "update", "push", "skip", "iter", "InfoBatchLoader"],
)
@pytest.mark.parametrize("opened", [False, True])
def test_a_closed_dataset_opens_reads_and_takes_nothing(call: Any, opened: bool, server: Server, shards: str) -> None:
    dataset = make_dataset(server, shards, f"closed-{os.urandom(4).hex()}")
    if opened:
        dataset.set_epoch(0)
    dataset.close()
    with pytest.raises(ConfigError, match=CLOSED):
        call(dataset)


@pytest.mark.parametrize("context", ["fork", "spawn", None])
def test_workers_of_a_closed_dataset_return_no_rows(context: str | None, server: Server, shards: str) -> None:
    dataset = make_dataset(server, shards, f"closed-workers-{context}")
    workers = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": context} if context else {}
    loader = DataLoader(dataset, batch_size=B, **workers)
    dataset.set_epoch(0)
    train_pass(dataset, loader)
    dataset.set_epoch(1)
    dataset.close()
    with pytest.raises(ConfigError, match=CLOSED):
        next(iter(loader))
    with pytest.raises(ConfigError, match=CLOSED):
        next(iter(DataLoader(dataset, batch_size=B, **workers)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pass_ends_when_its_dataset_is_closed(workers: int, server: Server, shards: str) -> None:
    dataset = make_dataset(server, shards, f"closed-amid-{workers}")
    dataset.set_epoch(0)
    batches = iter(DataLoader(dataset, batch_size=B, num_workers=workers))
    next(batches)
    dataset.close()
    with pytest.raises(ConfigError, match=CLOSED):
        list(batches)


def test_a_closed_dataset_can_still_be_asked_how_far_it_came(server: Server, shards: str) -> None:
    dataset = make_dataset(server, shards, "closed-position")
    dataset.set_epoch(0)
    for _ in range(3):
        dataset.skip()
    before = dataset.epoch, dataset.progress(), len(dataset), dataset.state_dict(), dataset.plan
    dataset.close()
    dataset.close()
    assert (dataset.epoch, dataset.progress(), len(dataset), dataset.state_dict(), dataset.plan) == before
    assert dataset.metrics()["positions"] == 3 * B
    assert dataset.flush()
    unopened = make_dataset(server, shards, "closed-unopened")
    unopened.close()
    assert (unopened.epoch, unopened.progress(), unopened.steps) == (0, 0.0, -(-SAMPLES // B))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_closed_validation_dataset_says_so(workers: int, shards: str) -> None:
    dataset = make_validation(shards)
    loader = DataLoader(dataset, batch_size=B, num_workers=workers)
    assert len(list(loader)) == len(loader)
    dataset.close()
    with pytest.raises(ConfigError, match=CLOSED):
        next(iter(loader))
    with pytest.raises(ConfigError, match=CLOSED):
        dataset.set_epoch(1)


def test_a_copy_of_a_closed_dataset_is_open(server: Server, shards: str) -> None:
    dataset = make_dataset(server, shards, "closed-copy")
    dataset.close()
    with dataset.map(abs) as copy:
        copy.set_epoch(0)
        train_pass(copy, DataLoader(copy, batch_size=B))
        assert copy.progress() == 1.0


def test_a_fork_that_closes_its_part_leaves_the_loop_and_its_workers_open(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "closed-fork") as dataset:
        loader = DataLoader(dataset, batch_size=B, num_workers=1)
        dataset.set_epoch(0)
        child = multiprocessing.get_context("fork").Process(target=close_in_a_fork, args=(dataset,))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        train_pass(dataset, loader)
        assert dataset.progress() == 1.0


def close_in_a_fork(dataset: Any) -> None:
    dataset.close()
    with pytest.raises(ConfigError, match=CLOSED):
        iter(dataset)


def test_an_iterator_of_a_closed_loader_says_so(server: Server, shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, url=server.url, run="closed-loader", epochs=5).map(to_number)
    loader = InfoBatchLoader(dataset, B)
    batches = iter(loader)
    next(batches)
    loader.skip()
    loader.close()
    for call in (lambda: next(batches), lambda: iter(loader), lambda: loader.set_epoch(1), loader.skip):
        with pytest.raises(ConfigError, match="this loader is closed"):
            call()
