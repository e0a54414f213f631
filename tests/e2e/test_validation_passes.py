"""Passes over a validation set (policy=None): each in another order, on which all readers agree; nothing padded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import SAMPLES

B = 64

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata, with torch 2.12


def number(sample: dict[str, Any]) -> int:
    return int(sample["txt"])


def has_a_third(sample: dict[str, Any]) -> bool:
    return int(sample["txt"]) % 3 == 1


THIRDS = [sample for sample in range(SAMPLES) if sample % 3 == 1]


def shuffled(shards: str, batch_size: int | None = None, **settings: Any) -> InfoBatchStreamDataset:
    return InfoBatchStreamDataset(shards, policy=None, batch_size=batch_size, **settings).map(number)


def order(loader: Any) -> list[int]:
    """The samples of a pass, in the order in which they come."""
    rows = [(index, weight) for _, index, weight in loader]
    return [
        sample
        for index, weight in rows
        for sample, real in zip(index.reshape(-1).tolist(), weight.reshape(-1).tolist(), strict=True)
        if real
    ]


def orders(loader: Any, passes: int = 3) -> list[list[int]]:
    found = [order(loader) for _ in range(passes)]
    assert all(sorted(one) == list(range(SAMPLES)) for one in found)
    return found


def all_differ(found: list[list[int]]) -> bool:
    return all(one != other for one, other in itertools.combinations(found, 2))


@pytest.mark.parametrize(
    ("persistent", "context"), [(False, "fork"), (True, "fork"), pytest.param(True, "spawn", marks=pytest.mark.long)]
)
def test_each_pass_of_a_plain_data_loader_has_an_order_on_which_its_workers_agree(
    persistent: bool, context: str, shards: str
) -> None:
    loader: Any = DataLoader(
        shuffled(shards, B), B, num_workers=3, persistent_workers=persistent, multiprocessing_context=context
    )
    assert all_differ(orders(loader))


def test_the_orders_are_those_of_the_loader_for_any_number_of_workers(shards: str) -> None:
    with InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None).map(number), B) as own:
        expected = [[n for batch in own for n in batch[own.weights() > 0].tolist()] for _ in range(3)]
    assert all_differ(expected)
    for workers in (0, 1, 2):
        assert orders(DataLoader(shuffled(shards, B), B, num_workers=workers)) == expected


def test_a_set_epoch_fixes_the_order_until_the_next(shards: str) -> None:
    dataset = shuffled(shards, B)
    loader: Any = DataLoader(dataset, B, num_workers=2, persistent_workers=True)
    _, second, third = orders(loader)
    dataset.set_epoch(1)
    assert orders(loader) == [second] * 3
    dataset.set_epoch(2)
    assert orders(loader, 1) == [third]
    assert order(DataLoader(dataset, B)) == third


def test_loaders_over_one_dataset_at_once_disturb_nobody(shards: str) -> None:
    dataset = shuffled(shards, B)
    loaders: list[Any] = [DataLoader(dataset, B, num_workers=2), DataLoader(dataset, B, num_workers=2)]
    for _ in range(2):
        pairs = list(zip(*loaders, strict=True))
        for side in range(2):
            assert sorted(order([pair[side] for pair in pairs])) == list(range(SAMPLES))
    same: Any = loaders[0]
    pairs = list(zip(same, same, strict=True))
    both = [order([pair[side] for pair in pairs]) for side in range(2)]
    assert sorted(both[0]) == sorted(both[1]) == list(range(SAMPLES))


def test_a_loop_that_seeds_every_pass_alike_reads_every_sample_once(shards: str) -> None:
    loader: Any = DataLoader(shuffled(shards, B), B, num_workers=3)
    with torch.random.fork_rng():
        for _ in range(3):
            torch.manual_seed(0)
            orders(loader, 1)


class MadeInWorkers(IterableDataset[Any]):
    """A dataset that opens the shards where it is iterated over."""

    def __init__(self, shards: str) -> None:
        self.shards = shards

    def __iter__(self) -> Iterator[Any]:
        return iter(shuffled(self.shards, B))


def test_a_dataset_made_in_the_workers_agrees_too(shards: str) -> None:
    loader: Any = DataLoader(MadeInWorkers(shards), B, num_workers=2)
    assert all_differ(orders(loader, 2))


@pytest.mark.parametrize(("workers", "batch_size"), [(0, B), (2, B), (2, None)])
def test_a_stateful_data_loader_resumes_in_the_order_that_it_was_saved_in(
    workers: int, batch_size: int | None, shards: str
) -> None:
    def make() -> Any:
        return StatefulDataLoader(shuffled(shards, batch_size), B, num_workers=workers)

    loader = make()
    first = order(loader)
    second = order(itertools.islice(batches := iter(loader), 5))
    state = loader.state_dict()
    rest = order(batches)
    again = make()
    again.load_state_dict(state)
    assert order(again) == rest
    assert sorted(second + rest) == list(range(SAMPLES))
    third = order(again)
    assert sorted(third) == list(range(SAMPLES))
    assert all_differ([first, second + rest, third])


def test_a_loader_counts_passes_that_were_left_early(shards: str) -> None:
    with InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None).map(number), B) as loader:
        firsts = [next(iter(loader)).tolist() for _ in range(3)]
        assert all_differ(firsts)
        loader.set_epoch(1)
        assert next(iter(loader)).tolist() == firsts[1] == next(iter(loader)).tolist()


@pytest.mark.filterwarnings("ignore:every pass over this validation set")
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_agree_on_the_order_though_one_of_them_looks_at_a_batch(workers: int, shards: str) -> None:
    def make(rank: int) -> InfoBatchLoader:
        dataset = InfoBatchStreamDataset(shards, policy=None).map(number)
        return InfoBatchLoader(dataset, B, workers, rank=rank, world_size=2)

    seen: list[list[int]] = []
    with make(0) as first, make(1) as second:
        next(iter(first))
        for _ in range(3):
            seen.append(
                [n for loader in (first, second) for batch in loader for n in batch[loader.weights() > 0].tolist()]
            )
    assert all(sorted(one) == list(range(SAMPLES)) for one in seen)


def test_ranks_of_a_loader_keep_one_order_and_say_so(shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, policy=None).map(number)
    with InfoBatchLoader(dataset, B, rank=0, world_size=2) as loader:
        first = torch.cat(list(loader)).tolist()
        with pytest.warns(UserWarning, match="call loader.set_epoch"):
            assert torch.cat(list(loader)).tolist() == first
        loader.set_epoch(1)
        assert torch.cat(list(loader)).tolist() != first


@pytest.mark.filterwarnings("default:every pass over this validation set")  # in worker 0 it is no error
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_of_a_plain_data_loader_keep_one_order_and_say_so(workers: int, shards: str) -> None:
    loaders: list[Any] = []
    datasets, passes = [], []
    for rank in range(2):
        dataset = shuffled(shards, B)
        dataset.set_ranks(rank=rank, world_size=2)
        datasets.append(dataset)
        loaders.append(DataLoader(dataset, B, num_workers=workers))
    assert sorted(order(loaders[0]) + order(loaders[1])) == list(range(SAMPLES))
    for loader in loaders:
        if workers:  # worker 0 warns, in its process
            second = order(loader)
        else:
            with pytest.warns(UserWarning, match="call dataset.set_epoch"):
                second = order(loader)
        passes.append(second)
    assert sorted(passes[0] + passes[1]) == list(range(SAMPLES))
    for dataset in datasets:
        dataset.set_epoch(1)
    assert sorted((other := order(loaders[0])) + order(loaders[1])) == list(range(SAMPLES))
    assert other != passes[0]


@pytest.mark.parametrize(("workers", "world_size"), [(0, 1), (3, 1), (2, 2), (1, 5)])
def test_without_a_batch_size_every_sample_comes_once_and_nothing_is_padded(
    workers: int, world_size: int, shards: str
) -> None:
    for shuffle in (False, True):
        seen: list[int] = []
        for rank in range(world_size):
            dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=shuffle).select(has_a_third).map(number)
            dataset.set_ranks(rank=rank, world_size=world_size)
            for numbers, index, weight in DataLoader(dataset, 10, num_workers=workers):
                assert weight.tolist() == [1.0] * len(numbers)
                assert numbers.tolist() == index.tolist()
                seen += numbers.tolist()
        assert sorted(seen) == THIRDS


def test_the_length_without_a_batch_size_is_the_ranks_number_of_samples(shards: str) -> None:
    for rank, length in enumerate((337, 336, 336)):
        dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False).map(number)
        dataset.set_ranks(rank=rank, world_size=3)
        assert len(dataset) == length == len(list(dataset))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rows", [1, 17])
def test_rows_without_a_batch_size_resume_behind_a_dropping_stage(workers: int, rows: int, shards: str) -> None:
    def make() -> Any:
        dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False).select(has_a_third).map(number)
        return StatefulDataLoader(dataset, rows, num_workers=workers)

    loader = make()
    batches = iter(loader)
    seen = order(itertools.islice(batches, 7))
    state = loader.state_dict()
    rest = order(batches)
    again = make()
    again.load_state_dict(state)
    assert order(again) == rest
    assert sorted(seen + rest) == THIRDS


def test_rows_without_a_batch_size_leave_unreadable_samples_out(shards: str) -> None:
    def refuses(sample: dict[str, Any]) -> int:
        if int(sample["txt"]) % 10 == 7:
            raise ValueError(sample["txt"])
        return int(sample["txt"])

    dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False, on_error="skip").map(refuses)
    assert [int(row[0]) for row in dataset] == [n for n in range(SAMPLES) if n % 10 != 7]


def test_rows_without_a_batch_size_are_read_up_to_close(shards: str) -> None:
    dataset = shuffled(shards)
    rows = iter(dataset)
    next(rows)
    dataset.close()
    with pytest.raises(Exception, match="this dataset is closed"):
        next(rows)
