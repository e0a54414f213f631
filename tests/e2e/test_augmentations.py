"""Random augmentations: by torch's seed, rank, epoch, generation and step, whatever the number of workers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import Server

pytestmark = pytest.mark.filterwarnings("ignore:the pipeline has dropped")  # on purpose


def as_list(rows: list[Any]) -> list[Any]:
    return rows


as_list.tied = True  # type: ignore[attr-defined]

B = 100
Draws = dict[int, tuple[float, float, float]]


def draw() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.randn()), random.random()


def augment(sample: dict[str, Any]) -> tuple[int, tuple[float, float, float]]:
    return int(sample["txt"]), draw()


def drops_some(sample: dict[str, Any]) -> bool:
    """All of the first batches, the last row of some, and nothing of others."""
    number = int(sample["txt"])
    return number >= 2 * B and number % 7 != 1


def collate(rows: list[Any]) -> Any:
    return [number for number, _ in rows], [drawn for _, drawn in rows], draw()


@pytest.fixture(autouse=True)
def seed_of_torch() -> Iterator[None]:
    """Puts the generators back, as the tests seed them."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(5)
    yield
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


@pytest.fixture
def as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What follows the call finds that no loader has read anything yet."""

    def forget() -> None:
        monkeypatch.setattr("infobatch_client.workers.loader_number._seedings", {})

    forget()
    return forget


def make(shards: str, *, select: bool = False, **settings: Any) -> InfoBatchLoader:
    dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False)
    dataset = (dataset.select(drops_some) if select else dataset).map(augment)
    return InfoBatchLoader(dataset, B, collate_fn=collate, **settings)


def pass_of(loader: Any) -> tuple[list[Any], list[Any]]:
    """Every row with its draws, and the draws of every batch's collate function."""
    batches = list(loader)
    rows = [row for numbers, drawn, _ in batches for row in zip(numbers, drawn, strict=True)]
    return rows, [drawn for _, _, drawn in batches]


@pytest.mark.parametrize("select", [False, True])
def test_the_draws_are_the_same_for_any_number_of_workers(
    select: bool, as_in_a_new_process: Callable[[], None], shards: str
) -> None:
    found = []
    for workers in (0, 1, 3):
        as_in_a_new_process()
        with make(shards, select=select, num_workers=workers) as loader:
            found.append([pass_of(loader), pass_of(loader)])
    assert found[0] == found[1] == found[2]
    (rows, collated), (rows_again, collated_again) = found[0]
    for drawn in ([drawn for _, drawn in rows], collated):
        different = set(drawn)
        assert all(len({one[kind] for one in different}) == len(different) for kind in range(3))
    assert not {drawn for _, drawn in rows} & {drawn for _, drawn in rows_again}
    assert not set(collated) & set(collated_again)


def test_ranks_draw_apart_even_if_they_seed_alike(shards: str) -> None:
    drawn = []
    for rank in range(2):
        with make(shards, num_workers=1, rank=rank, world_size=2) as loader:
            drawn.append(pass_of(loader))
    for kind in range(3):
        assert not {row[1][kind] for row in drawn[0][0]} & {row[1][kind] for row in drawn[1][0]}


def test_the_users_seed_decides(shards: str) -> None:
    def draws(seed: int) -> Any:
        torch.manual_seed(seed)
        with make(shards, num_workers=1) as loader:
            return pass_of(loader)

    first, second = draws(1), draws(2)
    assert first == draws(1)
    assert not {drawn for _, drawn in first[0]} & {drawn for _, drawn in second[0]}


def test_a_seed_set_between_passes_counts_from_the_next_pass_on(shards: str) -> None:
    with make(shards, num_workers=1) as loader:
        loader.set_epoch(0)
        first = pass_of(loader)
        assert pass_of(loader) == first  # the epoch, the pass and the seed are the same
        torch.manual_seed(6)
        assert pass_of(loader) != first


@pytest.mark.parametrize("select", [False, True])
def test_without_workers_the_programs_own_generators_are_left_alone(select: bool, shards: str) -> None:
    np.random.seed(3)
    random.seed(4)
    np.random.randn()  # leaves one number in numpy's cache
    expected = [torch.rand(2).tolist(), np.random.randn(2).tolist(), random.random()]
    torch.manual_seed(5)
    np.random.seed(3)
    random.seed(4)
    np.random.randn()
    with make(shards, select=select) as loader:
        batches = iter(loader)
        for _ in range(5):
            next(batches)
        assert [torch.rand(2).tolist(), np.random.randn(2).tolist(), random.random()] == expected


def test_an_error_in_a_stage_leaves_the_programs_generators_alone(shards: str) -> None:
    def fails(sample: dict[str, Any]) -> Any:
        draw()
        raise ValueError("no such class")

    loader = InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None).map(fails), B)
    before = torch.get_rng_state(), random.getstate()
    with pytest.raises(ValueError, match="no such class"):
        next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_reading_draws_nothing_from_the_programs_generators(shards: str) -> None:
    """A model's initial weights, or a DataLoader's order, don't depend on whether batches were read before."""
    expected = torch.rand(3)
    torch.manual_seed(5)
    with make(shards, num_workers=1) as loader:
        next(iter(loader))
    assert torch.equal(torch.rand(3), expected)


def test_a_stage_that_makes_a_generator_when_it_starts_has_another_one_on_each_rank(shards: str) -> None:
    def noisy(samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        own = np.random.default_rng(np.random.randint(2**31))
        for sample in samples:
            yield {"__key__": sample["__key__"], "noise": own.random()}

    def draws(rank: int, workers: int) -> set[float]:
        dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False).compose(noisy)
        with InfoBatchLoader(dataset, 16, workers, rank=rank, world_size=2) as loader:
            found = [batch["noise"][loader.weights() > 0] for batch in loader]
        return set(torch.cat(found).tolist())

    assert not draws(0, 2) & draws(1, 2)
    assert len(draws(0, 2)) == 512


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_and_generations_draw_apart(workers: int, server: Server, shards: str) -> None:
    def train(state: Any, epochs: int) -> tuple[list[set[Any]], Any]:
        dataset = InfoBatchStreamDataset(shards, url=server.url, run=f"augment-{workers}", epochs=3, policy="full")
        found = []
        with InfoBatchLoader(dataset.map(augment), B, workers, collate_fn=collate) as loader:
            if state is not None:
                loader.load_state_dict(state)
            for _ in itertools.islice(loader.epochs(), epochs):
                drawn: set[Any] = set()
                for _, rows, collated in loader:
                    loader.update(torch.rand(B))
                    drawn |= {*rows, collated}
                found.append(drawn)
            return found, loader.state_dict()

    (first, second), state = train(None, 2)
    (third,), _ = train(state, 1)
    (third_again,), _ = train(state, 1)
    assert not first & second
    assert not third & (first | second | third_again)


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
def test_a_plain_data_loader_draws_the_same_for_any_number_of_workers(
    context: str, as_in_a_new_process: Callable[[], None], server: Server, shards: str
) -> None:
    found = []
    for workers in (0, 1, 2):
        as_in_a_new_process()
        run = f"augment-plain-{context}-{workers}"
        dataset = InfoBatchStreamDataset(shards, url=server.url, run=run, epochs=3, batch_size=B)
        with dataset.select(drops_some).map(augment) as rows:
            rows.set_epoch(0)
            loader: Any = DataLoader(
                rows, B, num_workers=workers, multiprocessing_context=context if workers else None, collate_fn=as_list
            )
            found.append([batch for batch in loader])
    shown = [[[(row[0], row[1]) for row in batch] for batch in batches] for batches in found]
    assert shown[0] == shown[1] == shown[2]
    drawn = {row[1] for batch in shown[0] for row in batch}
    assert len(drawn) > 680


@pytest.mark.parametrize("persistent", [False, True])
def test_each_validation_pass_of_a_plain_data_loader_draws_anew(persistent: bool, shards: str) -> None:
    def passes(workers: int) -> list[set[Any]]:
        torch.manual_seed(5)
        dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False, batch_size=B).map(augment)
        loader: Any = DataLoader(
            dataset, B, num_workers=workers, persistent_workers=persistent and workers > 0, collate_fn=as_list
        )
        return [{row[1] for batch in loader for row in batch} for _ in range(2)]

    first, second = passes(2)
    assert not first & second
    assert passes(2) == [first, second]
    assert passes(1) == [first, second]
    none = passes(0)
    assert not none[0] & none[1]


def two_views(shards: str, workers: int, **settings: Any) -> list[list[Any]]:
    """What two loaders draw over one data set, side by side."""
    with make(shards, num_workers=workers, **settings) as one, make(shards, num_workers=workers, **settings) as other:
        return [[row for batch in pair for row in batch[1]] for pair in zip(*zip(one, other, strict=True), strict=True)]


@pytest.mark.usefixtures("as_in_a_new_process")
@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_over_one_data_set_draw_apart(workers: int, shards: str) -> None:
    views = two_views(shards, workers)
    for _ in range(2):
        with make(shards, num_workers=workers) as later:
            views.append([drawn for _, drawn in pass_of(later)[0]])
    for kind in range(3):
        assert len({row[kind] for view in views for row in view}) > 4 * 1009 - 10  # float32 may meet by chance


def test_the_same_program_draws_the_same_in_another_process(
    as_in_a_new_process: Callable[[], None], shards: str
) -> None:
    first = two_views(shards, 0)
    as_in_a_new_process()
    assert two_views(shards, 1) == first


def test_a_loader_keeps_its_number_whenever_the_program_seeds(shards: str) -> None:
    with make(shards) as one:
        torch.manual_seed(6)
        with make(shards) as other:
            assert pass_of(one) != pass_of(other)
            torch.manual_seed(5)
            assert pass_of(other) != pass_of(one)


def test_the_datasets_seed_tells_draws_apart_too(as_in_a_new_process: Callable[[], None], shards: str) -> None:
    found = []
    for seed in (0, 1, 0):
        as_in_a_new_process()
        dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False, seed=seed).map(augment)
        with InfoBatchLoader(dataset, B, collate_fn=collate) as loader:
            found.append(pass_of(loader))
    assert found[0] == found[2] != found[1]


def test_datasets_in_plain_data_loaders_draw_apart(as_in_a_new_process: Callable[[], None], shards: str) -> None:
    def views() -> list[list[Any]]:
        base = InfoBatchStreamDataset(shards, policy=None, shuffle=False, batch_size=B)
        datasets = [base.map(augment), InfoBatchStreamDataset(shards, policy=None, batch_size=B).map(augment)]
        datasets[1].set_epoch(0)
        loaders: list[Any] = [DataLoader(dataset, B, collate_fn=as_list) for dataset in datasets]
        return [[row[1] for batch in loader for row in batch] for loader in loaders]

    first = views()
    assert not set(first[0]) & set(first[1])
    assert len(set(first[0])) == 1009
    later = views()
    assert not set(first[0] + first[1]) & set(later[0] + later[1])
    as_in_a_new_process()
    assert views() == first


@pytest.mark.parametrize("policy", ["random", "full"])
def test_a_resume_in_mid_epoch_draws_as_the_uninterrupted_run(
    policy: Literal["random", "full"], as_in_a_new_process: Callable[[], None], server: Server, shards: str
) -> None:
    def train(run: str, steps: int, state: Any = None) -> tuple[list[Any], Any]:
        as_in_a_new_process()
        dataset = InfoBatchStreamDataset(shards, url=server.url, run=run, epochs=3, policy=policy)
        found = []
        with InfoBatchLoader(dataset.map(augment), B, collate_fn=collate) as loader:
            if state is not None:
                loader.load_state_dict(state)
            for _ in loader.epochs(max_steps=steps):
                for numbers, rows, collated in loader:
                    loader.update(torch.rand(B))
                    found.append((numbers, rows, collated))
            return found, loader.state_dict()

    run = f"augment-resumed-{policy}"
    before, state = train(run, 2)
    after, _ = train(run, 2, state)
    again, _ = train(run, 2, state)
    assert len(before) == 2
    assert after == again
    assert not {collated for _, _, collated in before} & {collated for _, _, collated in after}
    whole, _ = train(f"{run}-whole", 4)
    assert before + after == whole
