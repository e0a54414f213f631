"""A dropping stage is called a split over workers or ranks where it is one, and a filter is never called so."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader, get_worker_info

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from infobatch_stream.plan.order_params import OrderChoice
from tests.e2e.conftest import Server, make_shards
from tests.e2e.training import number, score

B = 32


@dataclass
class Split:
    """As webdataset's split_by_node and split_by_worker do, one behind the other."""

    rank: int = 0
    ranks: int = 1
    by_worker: bool = True

    def __call__(self, samples: Iterator[Any]) -> Iterator[Any]:
        info = get_worker_info() if self.by_worker else None
        of_node = every_nth(samples, self.rank, self.ranks)
        return every_nth(of_node, info.id, info.num_workers) if info else of_node


def every_nth(samples: Iterator[Any], place: int, parts: int) -> Iterator[Any]:
    """As webdataset slices, whose own way is refused by name."""
    for at, sample in enumerate(samples):
        if at % parts == place:
            yield sample


@dataclass
class Every:
    """A filter by the sample's own number."""

    n: int
    place: int = 0

    def __call__(self, sample: dict[str, Any]) -> bool:
        return int(sample["txt"]) % self.n == self.place


@dataclass
class Share:
    """A filter by a label that has nothing to do with the sample's number."""

    share: float

    def __call__(self, sample: dict[str, Any]) -> bool:
        return bool(np.random.default_rng(int(sample["txt"])).random() < self.share)


def warning_of(batches: Iterator[Any]) -> str:
    """What is warned of in a pass, "" for nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in batches:
            pass
    texts = [str(warning.message) for warning in caught if "will create" not in str(warning.message)]
    assert len(texts) <= 1
    return "".join(texts)


def validated(
    shards: str, change: Callable[[Any], Any], workers: int = 0, rank: int = 0, ranks: int = 1, **settings: Any
) -> str:
    dataset = change(InfoBatchStreamDataset(shards, policy=None, **settings)).map(number)
    with InfoBatchLoader(dataset, B, workers, rank=rank, world_size=ranks) as loader:
        return warning_of(iter(loader))


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shards in which the number of a sample, its place in the shard and in a batch are odd or even together."""
    return str(make_shards(tmp_path_factory.mktemp("even"), [240, 240, 480]))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_a_split_over_workers_is_called_one(workers: int, shuffle: bool, even: str) -> None:
    text = validated(even, lambda data: data.compose(Split()), workers, shuffle=shuffle)
    assert f"each worker keeps exactly one in {workers} of the samples that it reads, at equal distances" in text


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("rank", "ranks"), [(0, 2), (1, 2), (2, 3)])
def test_a_split_over_ranks_is_called_one(rank: int, ranks: int, workers: int, even: str) -> None:
    split = Split(rank, ranks, by_worker=False)
    text = validated(even, lambda data: data.compose(split), workers, rank, ranks)
    assert f"each worker keeps exactly one in {ranks} of the samples" in text


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("workers", "rank", "ranks"), [(2, 0, 2), (2, 2, 3), (3, 1, 2)])
def test_a_split_over_both_is_called_one(workers: int, rank: int, ranks: int, shuffle: bool, even: str) -> None:
    split = Split(rank, ranks)
    text = validated(even, lambda data: data.compose(split), workers, rank, ranks, shuffle=shuffle)
    assert f"each worker keeps exactly one in {workers * ranks} of the samples" in text


def test_a_split_by_another_number_is_not_explained_by_these(even: str) -> None:
    text = validated(even, lambda data: data.compose(Split(0, 5, by_worker=False)), 2)
    assert "has dropped" in text
    assert "each worker keeps" not in text


@pytest.mark.parametrize("keep", [Share(1 / 2), Share(1 / 3), Share(1 / 6), Every(2), Every(3), Every(6), Every(4, 1)])
@pytest.mark.parametrize(
    ("workers", "rank", "ranks"), [(0, 1, 2), (0, 0, 3), (2, 0, 1), (2, 1, 2), (2, 0, 3), (3, 0, 1)]
)
def test_a_filter_is_never_called_a_split(keep: Any, workers: int, rank: int, ranks: int, even: str) -> None:
    for settings in ({"shuffle": True}, {"shuffle": False}):
        text = validated(even, lambda data: data.select(keep), workers, rank, ranks, **settings)
        assert "has dropped" in text
        assert "a stage that splits samples over workers or ranks must be left out" in text
        assert "each worker" not in text
        assert "worker's number" not in text


@pytest.mark.parametrize("loader", ["own", "plain"])
@pytest.mark.parametrize(("samples", "batch_size", "workers"), [(192, 64, 3), (50, 25, 2), (248, 62, 4)])
def test_a_filter_of_which_each_worker_reads_one_batch_is_not_called_a_split(
    samples: int, batch_size: int, workers: int, loader: str, tmp_path: Path
) -> None:
    own = {} if loader == "own" else {"batch_size": batch_size}
    dataset = InfoBatchStreamDataset(str(make_shards(tmp_path, [samples])), policy=None, shuffle=False, **own)
    dataset = dataset.select(Every(workers)).map(number)
    if loader == "own":
        with InfoBatchLoader(dataset, batch_size, workers) as batches:
            text = warning_of(iter(batches))
        assert "has dropped" in text
    else:
        text = warning_of(iter(DataLoader(dataset, batch_size, num_workers=workers)))
    assert "each worker" not in text


@dataclass
class From:
    """A filter by a range."""

    first: int

    def __call__(self, sample: dict[str, Any]) -> bool:
        return int(sample["txt"]) >= self.first


@pytest.mark.parametrize("stripe", [1, 16])
@pytest.mark.parametrize("sizes", [[200, 200], [400]])
def test_a_filter_of_what_one_lane_holds_is_not_called_a_split(
    sizes: list[int], stripe: int, server: Server, tmp_path: Path
) -> None:
    order = OrderChoice(lanes=2, stripe=stripe)
    dataset = InfoBatchStreamDataset(
        str(make_shards(tmp_path, sizes)),
        policy="full",
        url=server.url,
        run=f"lane-{len(sizes)}-{stripe}",
        epochs=1,
        order=order,
    )

    def steps() -> Iterator[None]:
        with InfoBatchLoader(dataset.select(From(200)).map(number), 16, 2) as loader:
            for numbers in loader:
                loader.update(score(numbers))
                yield

    text = warning_of(steps())
    assert "has dropped" in text
    assert "each worker" not in text
    assert "worker's number" not in text


@dataclass
class OfShards:
    """A filter by the shard, such as a source that isn't wanted."""

    numbers: tuple[int, ...]

    def __call__(self, sample: dict[str, Any]) -> bool:
        return int(sample["txt"]) // B % len(self.numbers) in self.numbers[:1]


def test_shards_that_are_not_wanted_are_not_said_to_depend_on_the_worker(tmp_path: Path) -> None:
    shards = str(make_shards(tmp_path, [B] * 8))
    text = validated(shards, lambda data: data.select(OfShards((0, 1))), 2, shuffle=False)
    assert "has dropped" in text
    assert "worker's number" not in text


class MostToOne:
    """Nearly everything is the first worker's."""

    def __call__(self, samples: Iterator[Any]) -> Iterator[Any]:
        info = get_worker_info()
        yield from (sample for sample in samples if info is None or info.id == 0 or int(sample["txt"]) % 20 == 0)


def test_a_stage_that_gives_nearly_all_to_one_worker_is_said_to_depend_on_the_worker(even: str) -> None:
    text = validated(even, lambda data: data.compose(MostToOne()), 2)
    assert re.search(r"\(the workers drop 0%, 9\d%: it depends on the worker's number\)", text)


@pytest.mark.parametrize("order", [None, OrderChoice(run_samples=4)])
@pytest.mark.parametrize("stage", ["filter", "split"])
def test_a_run_tells_a_split_from_a_filter(stage: str, order: Any, server: Server, even: str) -> None:
    dataset = InfoBatchStreamDataset(
        even, url=server.url, run=f"{stage}-{order is None}", epochs=3, order=order, seed=1
    )
    dataset = dataset.compose(Split()) if stage == "split" else dataset.select(Every(2))

    def steps() -> Iterator[None]:
        with InfoBatchLoader(dataset.map(number), B, 2) as loader:
            loader.set_epoch(0)
            for numbers in loader:
                loader.update(score(numbers))
                yield

    text = warning_of(steps())
    assert "has dropped" in text
    assert ("each worker keeps exactly one in 2" in text) == (stage == "split")


@pytest.mark.parametrize("stage", ["filter", "split"])
def test_a_plain_loader_without_batch_size_says_what_it_lost(
    stage: str, even: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = InfoBatchStreamDataset(even, policy=None)
    dataset.set_ranks(rank=1, world_size=2)
    dataset = dataset.compose(Split(1, 2)) if stage == "split" else dataset.select(Every(2))
    text = warning_of(iter(DataLoader(dataset.map(number), batch_size=B)))
    assert ("each worker keeps exactly one in 2" in text) == (stage == "split")
    assert ("has dropped 240 of 480" in text) == (stage == "split")
