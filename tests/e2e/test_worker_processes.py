"""Workers are started in every way that Python has, by a process that has used gRPC before."""

from __future__ import annotations

from multiprocessing.connection import Connection

import pytest

from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.rank_processes import start_ranks
from tests.e2e.training import make_loader, train_pass


def train(_: Connection | None, shards: str, url: str, run: str, workers: int, context: str | None) -> list[list[int]]:
    """What each epoch gave. The first loader uses gRPC before the second starts its workers."""
    with make_loader(shards, url, f"{run}-before", 16, epochs=2) as before:
        train_pass(before)
        with make_loader(
            shards, url, run, 16, epochs=3, num_workers=workers, multiprocessing_context=context
        ) as loader:
            return [train_pass(loader) for _epoch in loader.epochs()]


@pytest.fixture(scope="session")
def expected(server: Server, shards: str) -> list[list[int]]:
    return train(None, shards, server.url, "no-workers", 0, None)


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_the_epochs_are_those_of_no_workers(
    context: str, expected: list[list[int]], server: Server, shards: str
) -> None:
    assert train(None, shards, server.url, f"workers-{context}", 2, context) == expected
    assert sorted(expected[0]) == list(range(SAMPLES))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_ranks_have_workers_too(context: str, server: Server, shards: str) -> None:
    found = [rank.result(90) for rank in start_ranks(train, 2, shards, server.url, f"ranks-{context}", 1, context)]
    assert sorted(found[0][0] + found[1][0]) == list(range(SAMPLES))
    assert len(found[0][2]) < SAMPLES / 2  # pruned
