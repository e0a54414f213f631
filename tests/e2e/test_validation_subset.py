"""Validation on a subset (policy=None, subset=): exactly its samples, once each, in both loaders and on all ranks."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from infobatch_stream import ConfigError, InfoBatchLoader, InfoBatchStreamDataset, select_samples
from tests.e2e.conftest import SAMPLES
from tests.e2e.training import number

B = 64
CHOSEN = [sample for sample in range(SAMPLES) if sample % 5 == 2 or sample > 950]
FORMS: dict[str, Callable[[Path], Any]] = {
    "indices": lambda _: np.array(CHOSEN[::-1]),
    "mask": lambda _: np.isin(np.arange(SAMPLES), CHOSEN),
    "keys": lambda _: [f"{sample:06d}" for sample in CHOSEN],
    "file": lambda folder: key_file(folder / "keys.txt"),
}


def key_file(path: Path) -> Path:
    path.write_text("".join(f"{sample:06d}\n" for sample in CHOSEN))
    return path


def is_chosen(sample: dict[str, Any]) -> bool:
    return int(sample["txt"]) in set(CHOSEN)


def is_even(sample: dict[str, Any]) -> bool:
    return int(sample["txt"]) % 2 == 0


def subset_of(shards: str, subset: Any, **settings: Any) -> InfoBatchStreamDataset:
    return InfoBatchStreamDataset(shards, policy=None, subset=subset, **settings).map(number)


def own_pass(loader: InfoBatchLoader) -> list[int]:
    """The numbers of the real rows of a pass."""
    return [n for numbers in loader for n in numbers[loader.weights() > 0].tolist()]


def plain_pass(loader: Any) -> list[int]:
    """The same of a plain DataLoader; their indices are their numbers."""
    seen = []
    for numbers, index, weight in loader:
        assert numbers[weight > 0].tolist() == index[weight > 0].tolist()
        seen += numbers[weight > 0].tolist()
    return seen


@pytest.mark.parametrize("form", FORMS)
def test_the_samples_of_each_form_come_in_index_order(form: str, shards: str, tmp_path: Path) -> None:
    subset = FORMS[form](tmp_path)
    with InfoBatchLoader(subset_of(shards, subset, shuffle=False), B) as loader:
        assert len(loader) == -(-len(CHOSEN) // B)
        assert own_pass(loader) == CHOSEN
        assert loader.plan.kept == len(CHOSEN)
        assert own_pass(loader) == CHOSEN
    assert plain_pass(DataLoader(subset_of(shards, subset, shuffle=False), B)) == CHOSEN


@pytest.mark.parametrize("workers", [0, 2])
def test_shuffled_they_come_once_each_in_both_loaders_alike(workers: int, shards: str) -> None:
    with InfoBatchLoader(subset_of(shards, CHOSEN), B, workers) as loader:
        passes = [own_pass(loader) for _ in range(2)]
    plain: Any = DataLoader(subset_of(shards, CHOSEN, batch_size=B), B, num_workers=workers)
    assert len(plain) == -(-len(CHOSEN) // B)
    assert [plain_pass(plain) for _ in range(2)] == passes
    assert all(sorted(one) == CHOSEN for one in passes)
    assert passes[0] != passes[1]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_nothing_is_padded_without_a_batch_size(workers: int, shuffle: bool, shards: str) -> None:
    dataset = subset_of(shards, CHOSEN, shuffle=shuffle)
    assert len(dataset) == len(CHOSEN)
    batches = list(DataLoader(dataset, B, num_workers=workers))
    assert sum(len(numbers) for numbers, _, _ in batches) == len(CHOSEN)
    assert sorted(n for numbers, _, _ in batches for n in numbers.tolist()) == CHOSEN
    filtered = InfoBatchStreamDataset(shards, policy=None, subset=CHOSEN, shuffle=shuffle).select(is_even).map(number)
    rows = [n for numbers, _, _ in DataLoader(filtered, B, num_workers=workers) for n in numbers.tolist()]
    assert sorted(rows) == [sample for sample in CHOSEN if sample % 2 == 0]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [None, B])
def test_ranks_share_them(batch_size: int | None, shuffle: bool, shards: str) -> None:
    seen, lengths = [], []
    for rank in range(3):
        dataset = subset_of(shards, CHOSEN, shuffle=shuffle, batch_size=batch_size)
        dataset.set_ranks(rank=rank, world_size=3)
        lengths.append(len(dataset))
        seen += plain_pass(DataLoader(dataset, B, num_workers=2))
    assert sorted(seen) == CHOSEN
    assert sum(lengths) == (len(CHOSEN) if batch_size is None else 3 * B * -(-len(CHOSEN) // (3 * B)))
    own = []
    for rank in range(3):
        with InfoBatchLoader(subset_of(shards, CHOSEN, shuffle=shuffle), B, rank=rank, world_size=3) as loader:
            own += own_pass(loader)
    assert sorted(own) == CHOSEN


def test_selected_samples_are_validated_end_to_end(shards: str) -> None:
    found = select_samples(shards, is_chosen, members="txt", num_workers=2)
    with InfoBatchLoader(subset_of(shards, found), B, 2) as loader:
        assert sorted(own_pass(loader)) == CHOSEN
        assert loader.metrics()["rows_dropped"] == 0


def test_the_subset_is_a_copy_that_a_pickle_takes_along(shards: str) -> None:
    mask = np.isin(np.arange(SAMPLES), CHOSEN)
    dataset = subset_of(shards, mask, shuffle=False)
    mask[:] = True
    assert plain_pass(DataLoader(pickle.loads(pickle.dumps(dataset)), B)) == CHOSEN
    assert plain_pass(DataLoader(dataset, B)) == CHOSEN


@pytest.mark.parametrize(
    ("subset", "text"),
    [
        ([], "subset is empty"),
        ([0, SAMPLES], f"subset has indices from 0 to {SAMPLES}"),
        ([3, 3], "subset has 1 indices more than once"),
        (["nobody"], "subset has keys of no sample"),
        (np.ones(5, bool), "subset is bool"),
    ],
)
def test_a_wrong_subset_is_refused_as_in_training(subset: Any, text: str, shards: str) -> None:
    with pytest.raises(ConfigError, match=text):
        InfoBatchStreamDataset(shards, policy=None, subset=subset)
