"""Optimizers that evaluate a batch more than once, SAM and LBFGS, step exactly as a loop by hand over the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.training import number

pytestmark = pytest.mark.filterwarnings("ignore:the pipeline has dropped")  # on purpose

B = 16
EPOCHS = 3  # epoch 1 is pruned, the last one annealed


def few(sample: dict[str, Any]) -> bool:
    """One sample in 40, so that most batches have no real row."""
    return int(sample["txt"]) % 40 == 0


def every(sample: dict[str, Any]) -> bool:
    return True


class Model(torch.nn.Module):
    """A loss for each sample, float64 (B,), that depends on three parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor([0.3, -0.2, 0.7], dtype=torch.float64))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        x = numbers.double() / SAMPLES
        return (self.theta @ torch.stack([torch.ones_like(x), torch.sin(9 * x), x * x]) - x).square()


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimization (Foret et al., ICLR 2021): the gradient of the worst point nearby, in two steps."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"rho": 0.05, "lr": 0.1})

    def step(self, closure: Any = None) -> Any:
        first = closure()
        group = self.param_groups[0]
        gradients = [p.grad for p in group["params"]]
        scale = group["rho"] / (torch.stack([g.norm() for g in gradients]).norm() + 1e-12)
        steps = [g * scale for g in gradients]
        with torch.no_grad():
            for p, step in zip(group["params"], steps, strict=True):
                p.add_(step)
        closure()
        with torch.no_grad():
            for p, step in zip(group["params"], steps, strict=True):
                p.sub_(step).sub_(p.grad, alpha=group["lr"])
        return first


def lbfgs(params: Any) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(params, lr=0.1, max_iter=3)


def lbfgs_with_line_search(params: Any) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(params, lr=0.5, max_iter=3, line_search_fn="strong_wolfe")


OPTIMIZERS = [Sam, lbfgs, lbfgs_with_line_search]
Batch = tuple[torch.Tensor, torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]


def make_dataset(shards: str, url: str, run: str, keeps: Any, **settings: Any) -> Any:
    dataset = InfoBatchStreamDataset(shards, url=url, run=run, epochs=EPOCHS, delta="0.7", seed=4, **settings)
    return dataset.select(keeps).map(number)


def loader_batches(shards: str, url: str, run: str, keeps: Any) -> Iterator[tuple[Any, Batch]]:
    """(loader, (numbers, weights, update)) of every batch."""
    with InfoBatchLoader(make_dataset(shards, url, run, keeps), B) as loader:
        for _ in loader.epochs():
            for numbers in loader:
                yield loader, (numbers, loader.weights(), loader.update)


def plain_batches(shards: str, url: str, run: str, keeps: Any) -> Iterator[tuple[Any, Batch]]:
    """The same by a plain DataLoader."""
    with make_dataset(shards, url, run, keeps, batch_size=B) as dataset:
        for epoch in range(EPOCHS):
            dataset.set_epoch(epoch)
            for numbers, index, weight in DataLoader(dataset, B):

                def update(losses: torch.Tensor, index: Any = index, weight: Any = weight) -> torch.Tensor:
                    mean: torch.Tensor = dataset.update(losses, index, weight)
                    return mean

                yield dataset, (numbers, weight, update)


@pytest.mark.parametrize("keeps", [every, few])
@pytest.mark.parametrize("make_optimizer", OPTIMIZERS)
@pytest.mark.parametrize("batches", [loader_batches, plain_batches])
def test_a_step_is_that_of_a_loop_by_hand_and_the_last_losses_are_the_scores(
    batches: Any, make_optimizer: Any, keeps: Any, server: Server, shards: str, run: str
) -> None:
    model, by_hand = Model(), Model()
    optimizer, optimizer_by_hand = make_optimizer(model.parameters()), make_optimizer(by_hand.parameters())
    scores = np.full(SAMPLES, np.nan, np.float32)
    calls = steps = without_rows = rows = pruned_weights = 0
    for source, (numbers, weights, update) in batches(shards, server.url, run, keeps):
        real = weights > 0
        before = source.metrics()["positions"]
        values: list[float] = []

        def closure(numbers: Any = numbers, real: Any = real, update: Any = update, values: Any = values) -> Any:
            optimizer.zero_grad()
            losses = model(numbers)
            scores[numbers[real].numpy()] = losses.detach().float()[real].numpy()
            value = update(losses)
            value.backward()
            values.append(value.item())
            return value

        expected = iter(values)

        def closure_by_hand(numbers: Any = numbers, weights: Any = weights, values: Any = expected) -> Any:
            optimizer_by_hand.zero_grad()
            value = (by_hand(numbers) * weights).sum() / B
            value.backward()
            assert value.item() == pytest.approx(next(values), rel=1e-12)
            return value

        optimizer.step(closure)
        optimizer_by_hand.step(closure_by_hand)
        torch.testing.assert_close(model.theta, by_hand.theta, rtol=1e-12, atol=1e-15)
        calls, steps, rows = calls + len(values), steps + 1, rows + int(real.sum())
        without_rows += not real.any()
        pruned_weights += int((weights > 1).sum())
        assert source.metrics()["positions"] - before <= B
    assert calls > steps
    assert pruned_weights > 0
    assert (without_rows > steps / 2) == (keeps is few)
    np.testing.assert_array_equal(server.scores(run), scores)
    assert server.stats(run)["trained_samples"] == rows
