"""A threshold that makes a class of an unusual size is said once, on the first rank, and counted in each plan."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from infobatch_stream import InfoBatch, InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import Server
from tests.e2e.rank_processes import start_ranks
from tests.e2e.training import make_loader, number

EPOCHS = 4


def train_with_an_outlier(say: Callable[[Any], None], url: str, shards: str, run: str) -> list[str]:
    """Trains epochs in which one loss moves the mean above all others; what was said of the class."""
    del say
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with make_loader(shards, url, run, 64, epochs=EPOCHS) as loader:
            for _ in loader.epochs():
                for numbers in loader:
                    loader.update(torch.where(numbers == 7, 1e6, 1.0 + numbers / 1000))
    return [str(warning.message) for warning in caught if "of the scored samples" in str(warning.message)]


def test_one_process_says_it_once(server: Server, shards: str) -> None:
    said = train_with_an_outlier(print, server.url, shards, "odd-alone")
    assert len(said) == 1
    assert said[0].startswith("epoch 1: 100% of the scored samples are below the threshold 992.583; expected 20–95 %")
    assert server.stats("odd-alone")["unusual_low_classes"] == EPOCHS - 1


def test_of_two_ranks_the_first_says_it(server: Server, shards: str) -> None:
    ranks = start_ranks(train_with_an_outlier, 2, server.url, shards, "odd-ranks")
    assert [len(rank.result()) for rank in ranks] == [1, 0]
    assert server.stats("odd-ranks")["unusual_low_classes"] == EPOCHS - 1


def test_each_group_is_named_once(server: Server, shards: str) -> None:
    groups = {"odd": "part-00[13].tar", "even": "part-00[024].tar"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = InfoBatchStreamDataset(
            shards,
            url=server.url,
            run="odd-groups",
            epochs=EPOCHS,
            seed=3,
            policy=InfoBatch(per_group=True, anneal=False),
            groups=groups,
        )
        with InfoBatchLoader(dataset.map(number), 64) as loader:
            for epoch in loader.epochs():
                for numbers in loader:
                    outliers = torch.isin(numbers, torch.tensor([7] if epoch == 0 else [7, *range(490, 495)]))
                    loader.update(torch.where(outliers, 1e6, 1.0 + numbers / 1000))
    said = [str(warning.message) for warning in caught if "of the scored samples" in str(warning.message)]
    assert [text.split(" are ")[0] for text in said] == [
        "epoch 1: 100% of the scored samples of group even",
        "epoch 2: 99% of the scored samples of group odd",
    ]
