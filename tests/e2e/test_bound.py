"""Every pushed score belongs to its sample, whatever the pipeline and however the workers finish."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import SAMPLES, Server

pytestmark = pytest.mark.filterwarnings("ignore:the pipeline has dropped")  # on purpose

Shape = tuple[Callable[[InfoBatchStreamDataset], Any], Callable[[Any], torch.Tensor]]


def number(text: str) -> int:
    """The sample's number as its own data tells it; slow now and then, so that workers finish out of turn."""
    value = int(text)
    if value % 41 == 0:
        time.sleep(0.002)
    return value


def to_pair(sample: dict[str, Any]) -> tuple[int, int]:
    return number(sample["txt"]), 0


def to_dict_of_its_own(sample: dict[str, Any]) -> dict[str, Any]:
    return {"value": number(sample["txt"])}


def to_number(sample: dict[str, Any]) -> int:
    return number(sample["txt"])


def number_member(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "txt": number(sample["txt"])}


def nine_in_ten(sample: dict[str, Any]) -> bool:
    return random.random() < 0.9


def not_a_whole_batch(sample: dict[str, Any]) -> bool:
    return not 300 <= int(sample["txt"]) < 500


def own_stage(source: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for sample in source:
        if int(sample["txt"]) % 9:
            yield sample


SHAPES: dict[str, Shape] = {
    "decode, to_tuple, map_tuple": (
        lambda d: d.decode().to_tuple("txt", "cls").map_tuple(number, int),
        lambda b: b[0],
    ),
    "map to a tuple of its own": (lambda d: d.decode().map(to_pair), lambda b: b[0]),
    "map to a dict of its own": (lambda d: d.decode().map(to_dict_of_its_own), lambda b: b["value"]),
    "map to a number": (lambda d: d.decode().map(to_number), lambda b: b),
    "dicts all the way": (lambda d: d.decode().map(number_member), lambda b: b["txt"]),
    "select at random": (lambda d: d.decode().select(nine_in_ten).map(to_number), lambda b: b),
    "select whole batches away": (lambda d: d.decode().select(not_a_whole_batch).map(to_pair), lambda b: b[0]),
    "a stage of one's own": (lambda d: d.decode().compose(own_stage).to_tuple("txt").map_tuple(number), lambda b: b[0]),
}


def score_of(values: torch.Tensor) -> torch.Tensor:
    """Some function that tells samples apart: a wrong tie gives a wrong score."""
    return torch.sqrt(values.double() + 1).float()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_score_reaches_its_sample(shape: str, workers: int, server: Server, shards: str) -> None:
    build, values_of = SHAPES[shape]
    run = f"bound-{list(SHAPES).index(shape)}-{workers}"
    dataset = build(InfoBatchStreamDataset(shards, url=server.url, run=run, epochs=4, delta="0.75", seed=3))
    trained: set[int] = set()
    with InfoBatchLoader(dataset, batch_size=32, num_workers=workers) as loader:
        for epoch in loader.epochs():
            for batch in loader:
                values = values_of(batch)
                assert len(values) == 32
                loader.update(score_of(values))
                trained.update(values[loader.weights() > 0].tolist())
            if epoch == 1:
                break
    scores = server.scores(run)
    numbers = np.arange(SAMPLES)
    expected = score_of(torch.from_numpy(numbers)).numpy()
    scored = ~np.isnan(scores)
    assert set(numbers[scored].tolist()) == trained
    np.testing.assert_array_equal(scores[scored], expected[scored])
    assert len(trained) > 0.7 * SAMPLES


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_dict_batches_carry_index_and_weight(workers: int, server: Server, shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, url=server.url, run=f"keys-{workers}", epochs=3, delta="0.67").decode()
    with InfoBatchLoader(dataset, batch_size=50, num_workers=workers) as loader:
        for batch in loader:
            real = batch["__weight__"] > 0
            assert batch["__index__"].dtype == torch.int64
            assert batch["__weight__"].dtype == torch.float32
            assert [int(text) for text, there in zip(batch["txt"], real, strict=True) if there] == batch["__index__"][
                real
            ].tolist()
            assert (batch["__index__"][~real] == -1).all()
            loader.update(torch.ones(50))


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_the_order_is_the_same_for_any_number_of_workers(workers: int, shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=True, seed=4).decode().map(to_number)
    order = [n for batch in InfoBatchLoader(dataset, 64, num_workers=workers) for n in batch.tolist()]
    alone = [n for batch in InfoBatchLoader(dataset, 64) for n in batch.tolist()]
    assert order == alone
    assert sorted(order[:SAMPLES]) == list(range(SAMPLES))
