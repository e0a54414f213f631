"""Small trainings that tests share: a loader whose samples are their own numbers, and a score for each."""

from __future__ import annotations

from typing import Any

import torch

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.dataset_arguments import dataset_arguments

__all__ = ["make_loader", "number", "score", "train_pass"]

_LOADING = (
    "num_workers",
    "remainder",
    "process_group",
    "rank",
    "world_size",
    "replicas",
    "agree",
    "multiprocessing_context",
)


def number(sample: dict[str, Any]) -> int:
    """The sample's number."""
    return int(sample["txt"])


def score(numbers: torch.Tensor) -> torch.Tensor:
    """Another one for each of 101 samples in a row."""
    return (numbers * 37 % 101).float()


def make_loader(shards: str, url: str | None, run: str | None, batch_size: int, **settings: Any) -> InfoBatchLoader:
    """A loader of the tests' shards; settings of dataset and loader together."""
    loading = {name: settings.pop(name) for name in _LOADING if name in settings}
    asked = {"epochs": 5, "anneal": False, "seed": 3, **settings}
    return InfoBatchLoader(
        InfoBatchStreamDataset(shards, url=url, run=run, **dataset_arguments(**asked)).map(number),
        batch_size,
        **loading,
    )


def train_pass(loader: InfoBatchLoader, stop: int | None = None) -> list[int]:
    """Trains a pass, or its first `stop` batches; the numbers of the real rows."""
    seen: list[int] = []
    if stop == 0:
        return seen
    for step, numbers in enumerate(loader, 1):
        loader.update(score(numbers))
        seen += numbers[loader.weights() > 0].tolist()
        if step == stop:
            break
    return seen
