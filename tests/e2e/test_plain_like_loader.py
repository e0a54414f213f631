"""A plain DataLoader on several ranks: the batches of InfoBatchLoader, and none that two ranks share."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from infobatch_stream import InfoBatch, InfoBatchStreamDataset
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.rank_processes import start_ranks
from tests.e2e.training import make_loader, number, score

WORLD, BATCH = 3, 16


def plain(_: Connection, shards: str, url: str, workers: int, context: str | None) -> list[Any]:
    dataset = InfoBatchStreamDataset(
        shards,
        url=url,
        run=f"plain-{workers}-{context}",
        epochs=3,
        policy=InfoBatch(anneal=False),
        seed=3,
        batch_size=BATCH,
    ).map(number)
    loader: Any = DataLoader(
        dataset,
        batch_size=BATCH,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context=context,
    )
    found = []
    with dataset:
        for epoch in range(3):
            dataset.set_epoch(epoch)
            batches = []
            for numbers, index, weight in loader:
                dataset.update(score(numbers), index, weight)
                batches.append(numbers[weight > 0].tolist())
            assert len(batches) == dataset.steps
            found.append(batches)
    return found


def own(_: Connection, shards: str, url: str) -> list[Any]:
    found = []
    with make_loader(shards, url, "own", BATCH, epochs=3) as loader:
        for _epoch in loader.epochs():
            batches = []
            for numbers in loader:
                loader.update(score(numbers))
                batches.append(numbers[loader.weights() > 0].tolist())
            found.append(batches)
    return found


@pytest.fixture(scope="session")
def expected(server: Server, shards: str) -> list[Any]:
    """By rank, epoch and step."""
    return [rank.result() for rank in start_ranks(own, WORLD, shards, server.url)]


@pytest.mark.parametrize(
    ("workers", "context"),
    [(0, None), (1, "fork"), (2, "spawn"), pytest.param(3, "forkserver", marks=pytest.mark.long)],
)
def test_ranks_have_the_batches_of_the_loader(
    workers: int, context: str | None, expected: list[Any], server: Server, shards: str
) -> None:
    ranks = start_ranks(plain, WORLD, shards, server.url, workers, context)
    assert [rank.result() for rank in ranks] == expected
    scores = server.scores(f"plain-{workers}-{context}")
    np.testing.assert_array_equal(scores, score(torch.arange(SAMPLES)).numpy())


def validate(_: Connection, shards: str, workers: int, context: str | None) -> list[int]:
    dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False, batch_size=BATCH).map(number)
    loader: Any = DataLoader(dataset, batch_size=BATCH, num_workers=workers, multiprocessing_context=context)
    seen: list[int] = []
    steps = 0
    for numbers, _index, weight in loader:
        seen += numbers[weight > 0].tolist()
        steps += 1
    assert steps == len(loader) == -(-SAMPLES // (BATCH * 2))
    return seen


@pytest.mark.parametrize(
    ("workers", "context"), [(0, None), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.long)]
)
def test_validation_is_shared_by_the_ranks(workers: int, context: str | None, shards: str) -> None:
    first, second = (rank.result() for rank in start_ranks(validate, 2, shards, workers, context))
    assert sorted(first + second) == list(range(SAMPLES))
    assert len(first) > SAMPLES // 2 - BATCH
