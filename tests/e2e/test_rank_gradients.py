"""Gradients of several ranks, of accumulated micro-batches and of one process are the same sums."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from infobatch_stream import InfoBatch, InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.rank_processes import start_ranks

STEP_ROWS = 48
DIAGONAL = [(4, 1), (1, 2), (2, 3)]  # micro-batches by step, ranks


def features(sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
    number = int(sample["txt"])
    return torch.tensor([number % 7, number % 11, number % 13, 1.0]) / 10, int(sample["cls"])


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 7)).double()


def step_gradients(_: Connection | None, shards: str, url: str, run: str, micro_batches: int) -> list[list[float]]:
    """The gradients of every optimizer step of two epochs, each over STEP_ROWS rows of all ranks together.

    Epoch 0 is unpruned and leaves one row for its last step, so that all ranks but one have nothing but padding there.
    """
    assert SAMPLES % STEP_ROWS == 1
    world = dist.get_world_size() if dist.is_initialized() else 1
    dataset = InfoBatchStreamDataset(shards, url=url, run=run, epochs=2, policy=InfoBatch(anneal=False), seed=5).map(
        features
    )
    model = make_model()
    trained: Any = DistributedDataParallel(model) if world > 1 else model
    criterion = nn.CrossEntropyLoss(reduction="none")
    found = []
    with InfoBatchLoader(dataset, STEP_ROWS // world // micro_batches) as loader:
        for _epoch in loader.epochs():
            for step, (inputs, labels) in enumerate(loader, 1):
                losses = criterion(trained(inputs.double()), labels)
                loss = loader.update(losses) / micro_batches
                loss.backward()
                if step % micro_batches == 0 or step == len(loader):
                    found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
                    model.zero_grad()
    return [gradient.tolist() for gradient in found]


@pytest.fixture(scope="session")
def alone(server: Server, shards: str) -> list[list[float]]:
    """Those of one process that takes STEP_ROWS at once."""
    return step_gradients(None, shards, server.url, "gradients", 1)


@pytest.mark.parametrize(
    ("micro_batches", "world"),
    [
        pytest.param(micro_batches, world, marks=[] if (micro_batches, world) in DIAGONAL else pytest.mark.long)
        for micro_batches in (1, 2, 4)
        for world in (1, 2, 3)
    ],
)
def test_a_step_has_the_gradient_of_one_process(
    world: int, micro_batches: int, alone: list[list[float]], server: Server, shards: str
) -> None:
    run = f"gradients-{world}-{micro_batches}"
    ranks = start_ranks(step_gradients, world, shards, server.url, run, micro_batches)
    for rank in ranks:
        found = rank.result()
        assert len(found) == len(alone)
        torch.testing.assert_close(torch.tensor(found), torch.tensor(alone), rtol=1e-6, atol=1e-9)


def padded_rank(_: Connection, shards: str, url: str) -> list[float]:
    dataset = InfoBatchStreamDataset(
        shards, url=url, run="padded-ranks", epochs=2, policy=InfoBatch(anneal=False), seed=5
    ).map(features)
    sums = []
    with InfoBatchLoader(dataset, 16) as loader:
        next(loader.epochs())
        for inputs, labels in loader:
            weight = nn.Parameter(torch.ones(4))
            losses = (inputs @ weight) * float("nan") if not loader.weights().any() else inputs @ weight + 0 * labels
            loader.update(losses).backward()
            assert weight.grad is not None
            sums.append(float(weight.grad.abs().sum()))
    return sums


def test_a_rank_of_padding_alone_has_no_gradient(server: Server, shards: str) -> None:
    found = [rank.result() for rank in start_ranks(padded_rank, 3, shards, server.url)]
    assert len({len(sums) for sums in found}) == 1
    assert found[0][-1] > 0
