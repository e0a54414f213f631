"""What every framework's tests train: a linear model on the shards' numbers, and the plain loop to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.dataset_arguments import dataset_arguments

EPOCHS = 5
BATCH_SIZE = 64
LR = 0.05


def to_row(sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
    number = int(sample["txt"])
    return features(torch.tensor([number]))[0], number


def features(numbers: torch.Tensor) -> torch.Tensor:
    """float64 (B, 4), a function of the samples' numbers."""
    at = numbers.double()
    return torch.stack([at.sin(), at.cos(), (2 * at).sin(), torch.ones_like(at)], dim=1)


def make_model() -> torch.nn.Linear:
    model = torch.nn.Linear(4, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.1, -0.2, 0.3, 0.4]]))
        model.bias.fill_(0.5)
    return model


def squared_errors(outputs: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """A loss that trains: float64 (B,)."""
    return (outputs.squeeze(1) - numbers % 7) ** 2


def known_losses(outputs: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """A loss that is a function of the sample alone, with a graph whose gradients are 0."""
    return known(numbers) + 0 * outputs.squeeze(1)


def known(numbers: torch.Tensor) -> torch.Tensor:
    return (numbers * 37 % 101).double() + 1


def make_loader(
    server: Server, shards: str, run: str, *, stage: Callable[..., Any] = to_row, **settings: Any
) -> InfoBatchLoader:
    loading = {name: settings.pop(name) for name in ("num_workers", "batch_size") if name in settings}
    asked = {"epochs": EPOCHS, "delta": "0.8", "seed": 3, **settings}
    dataset = InfoBatchStreamDataset(shards, url=server.url, run=run, **dataset_arguments(**asked)).map(stage)
    return InfoBatchLoader(dataset, **{"batch_size": BATCH_SIZE, **loading})


def plain_training(loader: InfoBatchLoader, accumulate: int = 1) -> torch.nn.Linear:
    """All epochs in a loop of our own: each window's losses over `accumulate`, a step also at an epoch's end."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    with loader:
        for _ in loader.epochs():
            for number, (rows, numbers) in enumerate(loader, start=1):
                loss = loader.update(squared_errors(model(rows), numbers))
                (loss / accumulate).backward()
                if number % accumulate == 0 or number == len(loader):
                    optimizer.step()
                    optimizer.zero_grad()
    return model


def assert_same_weights(model: torch.nn.Module, other: torch.nn.Module, tolerance: float = 1e-6) -> None:
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def assert_scores_are_known(server: Server, run: str) -> None:
    """Every sample was scored (epoch 0 keeps all), and each with its own value."""
    np.testing.assert_array_equal(server.scores(run), known(torch.arange(SAMPLES)).float().numpy())


def real_numbers(numbers: torch.Tensor, weights: torch.Tensor) -> list[int]:
    """Those of a batch whose rows don't only fill it up."""
    return numbers[weights > 0].tolist()
