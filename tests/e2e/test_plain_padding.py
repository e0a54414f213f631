"""Batches without a real row in a plain DataLoader: updated once or several times, each is counted once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from infobatch_stream import Full, InfoBatchStreamDataset
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.training import number, score

pytestmark = pytest.mark.filterwarnings("ignore:the pipeline has dropped")  # on purpose

B = 4
KEPT = range(0, SAMPLES, 5)
_buffer = torch.zeros(B, dtype=torch.int64)


def is_kept(sample: dict[str, Any]) -> bool:
    return int(sample["txt"]) % 5 == 0


def same(index: torch.Tensor) -> torch.Tensor:
    return index


def copied(index: torch.Tensor) -> torch.Tensor:
    return index.clone()


def reused(index: torch.Tensor) -> torch.Tensor:
    """One memory for every batch, as a CUDA graph has it."""
    return _buffer.copy_(index)


@pytest.mark.parametrize("updates", [1, 2, 3])
@pytest.mark.parametrize("passed", [same, copied, reused])
def test_every_batch_counts_once(
    passed: Callable[[torch.Tensor], torch.Tensor], updates: int, server: Server, shards: str
) -> None:
    run = f"padding-{updates}-{passed.__name__}"
    dataset = InfoBatchStreamDataset(shards, url=server.url, run=run, epochs=1, policy=Full(), batch_size=B)
    dataset = dataset.select(is_kept).map(number)
    without_rows = 0
    with dataset:
        dataset.set_epoch(0)
        for step, (numbers, index, weight) in enumerate(DataLoader(dataset, B), start=1):
            for _ in range(updates):
                dataset.update(score(numbers), passed(index), weight)
            if (index >= 0).any():
                assert dataset.metrics()["positions"] == min(step * B, SAMPLES)
            without_rows += not (index >= 0).any()
        assert without_rows > 40
        assert dataset.metrics()["rows_real"] == len(KEPT)
        if passed is not reused:  # there, only a real row behind them tells how many batches there were
            assert dataset.progress() == 1.0
            assert dataset.metrics()["rows_dropped"] == SAMPLES - len(KEPT)
        assert dataset.flush()
    assert np.array_equal(np.flatnonzero(np.isfinite(server.scores(run))), np.array(KEPT))
