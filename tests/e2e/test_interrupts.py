"""Ctrl-C while batches are made, and while the next pass begins: what follows is as if nothing had happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils.data import dataloader

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import SAMPLES
from tests.e2e.training import number

B = 64


@contextmanager
def interrupt_at(call: int) -> Iterator[list[int]]:
    """A real SIGINT as the loop's process waits for its workers' data for the `call`-th time."""
    calls = [0]
    waits: Any = dataloader._MultiProcessingDataLoaderIter
    original = waits._try_get_data

    def get(self: Any, *args: Any, **kwargs: Any) -> Any:
        data = original(self, *args, **kwargs)
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGINT)
        return data

    waits._try_get_data = get
    try:
        yield calls
    finally:
        waits._try_get_data = original


def numbers(loader: InfoBatchLoader) -> list[int]:
    return [n for batch in loader for n in batch[loader.weights() > 0].tolist()]


@pytest.mark.parametrize("call", [1, 2, 3, 4, 9, 17, 18])
def test_the_pass_after_an_interrupt_has_its_own_batches(call: int, shards: str) -> None:
    """The first two calls wait for workers that begin the pass, the next sixteen for batches."""
    loader = InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None, shuffle=False).map(number), B, 2)
    with loader:
        for _ in range(2):  # the second pass of two workers that live on
            batches = iter(loader)
            assert next(batches).tolist() == list(range(B))
        with interrupt_at(call), pytest.raises(KeyboardInterrupt):
            numbers(loader)
        assert numbers(loader) == list(range(SAMPLES)) == numbers(loader)


def test_workers_that_were_killed_between_passes_are_replaced(shards: str) -> None:
    """Ctrl-C in a terminal, or in a notebook, reaches the workers too."""
    loader = InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None, shuffle=False).map(number), B, 2)
    with loader:
        assert next(iter(loader)).tolist() == list(range(B))
        workers = loader._workers._iterator._workers
        for worker in workers:
            worker.kill()
            worker.join()
        assert numbers(loader) == list(range(SAMPLES))


def test_an_error_in_a_worker_ends_its_pass_only(shards: str) -> None:
    fails = torch.zeros(1).share_memory_()

    def maybe(sample: dict[str, Any]) -> int:
        if fails[0] and int(sample["txt"]) == 500:
            raise ValueError("no such class")
        return int(sample["txt"])

    with InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None, shuffle=False).map(maybe), B, 2) as loader:
        fails[0] = 1
        with pytest.raises(ValueError, match="no such class"):
            numbers(loader)
        fails[0] = 0
        assert numbers(loader) == list(range(SAMPLES)) == numbers(loader)
