"""A plain DataLoader used wrongly, and the dataset in other processes and copies: errors, and no shared epoch."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from infobatch_stream import (
    ConfigError,
    InfoBatchLoader,
    InfoBatchStreamDataset,
    LossError,
)
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.test_plain_loader import B, make_dataset, score, to_number, train_epochs


class Held:
    """Holds workers up at their start until it is set."""

    def __init__(self) -> None:
        self.free = multiprocessing.get_context("fork").Event()

    def __call__(self, worker: int) -> None:
        assert self.free.wait(60)


def test_a_worker_slower_than_the_first_update_reads_its_pass(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-slow") as dataset:
        dataset.set_epoch(0)
        held = Held()
        rows = iter(
            DataLoader(dataset, batch_size=B, num_workers=1, worker_init_fn=held, multiprocessing_context="fork")
        )
        dataset.skip()  # as if a faster worker's batch had come and been trained
        held.free.set()
        assert len(next(rows)[1]) == B


def test_workers_without_an_open_epoch_say_what_to_call(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-unopened") as dataset:
        loader = DataLoader(dataset, batch_size=B, num_workers=1, persistent_workers=True)
        with pytest.raises(ConfigError, match=r"call dataset\.set_epoch\(epoch\).* before iterating"):
            next(iter(loader))
        with pytest.raises(LossError, match="no epoch is open"):
            dataset.skip()
        dataset.set_epoch(0)
        assert len(list(loader)) == 16


class Trespasser:
    """Tries in a worker what only the loop's process may do."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, worker: int) -> None:
        for call in (lambda: self.dataset.set_epoch(0), self.dataset.skip, self.dataset.metrics):
            with pytest.raises(ConfigError, match="for the process that owns the loop"):
                call()
        assert self.dataset.state_dict() == {}


def test_only_the_process_of_the_loop_opens_and_updates(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-where") as dataset:
        dataset.set_epoch(0)
        loader = DataLoader(dataset, batch_size=B, num_workers=1, worker_init_fn=Trespasser(dataset))
        assert len(next(iter(loader))[1]) == B


def test_an_epoch_without_any_update_is_told_of(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-forgotten") as dataset:
        dataset.set_epoch(0)
        assert len(list(DataLoader(dataset, batch_size=B))) == 16
        with pytest.warns(UserWarning, match=r"no batch of epoch 0 was updated.*dataset\.update\("):
            dataset.set_epoch(1)


def test_a_batch_size_that_does_not_fit_names_both(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-sizes") as dataset:
        dataset.set_epoch(0)
        numbers, index, weight = next(iter(DataLoader(dataset, batch_size=50)))
        with pytest.raises(
            ConfigError, match=r"has 50 rows .* batch_size=64.*InfoBatchStreamDataset\(…, batch_size=50"
        ):
            dataset.update(score(numbers), index, weight)
    dataset = make_dataset(server, shards, "plain-unsized", batch_size=None)
    with pytest.raises(ConfigError, match="needs the batch size here too"):
        dataset.set_epoch(0)
    with pytest.raises(ConfigError, match="batch_size=0 must be at least 1"):
        make_dataset(server, shards, "plain-unsized", batch_size=0)
    with pytest.raises(ConfigError, match="batch_size=32 here and batch_size=64 at the dataset"):
        InfoBatchLoader(make_dataset(server, shards, "plain-two-sizes"), 32)


def test_updates_that_are_not_the_batchs_own_are_refused(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-wrong") as dataset:
        loader = DataLoader(dataset, batch_size=B)
        train_epochs(dataset, loader, range(1))
        dataset.set_epoch(1)
        numbers, index, weight = next(iter(loader))
        losses = score(numbers)
        left_out = int(np.setdiff1d(np.arange(SAMPLES), dataset.plan.kept_between(0, SAMPLES))[0])
        changed, beyond, heavier = index.clone(), index.clone(), weight.clone()
        changed[3], beyond[3] = left_out, SAMPLES
        heavier[3] += 1
        for wrong, message in [
            ((losses, index.tolist(), weight), "index is a list"),
            ((losses, index.int(), weight), r"index is a tensor \(64,\) of torch.int32"),
            ((losses, beyond, weight), r"index has 1009; samples are in \[0, 1009\)"),
            ((losses, beyond - SAMPLES - 2, weight), "index has -"),
            ((losses, changed, weight), f"index has {left_out}, which epoch 1 leaves out"),
            ((losses, index, weight.double()), r"weight is a tensor \(64,\) of torch.float64"),
            ((losses, index, weight[1:]), r"weight is a tensor \(63,\)"),
            ((losses, index, heavier), "weight has .* for sample .*; epoch 1 gives it"),
            ((losses[1:], index, weight), r"losses has shape \(63,\)"),
            ((losses.mean(), index, weight), "reduction='none'"),
            ((losses.long(), index, weight), "must be floating"),
        ]:
            with pytest.raises(LossError, match=message):
                dataset.update(*wrong)
        with pytest.raises(LossError, match="scores has shape"):
            dataset.push(losses[1:], index)
        assert dataset.progress() == 1
        dataset.update({"a": losses / 2, "b": losses / 2}, index, weight)
        assert dataset.progress() > 1


def test_the_dataset_pickles_at_any_time(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-pickle") as dataset:
        for _ in range(2):
            other = pickle.loads(pickle.dumps(dataset))
            with pytest.raises(LossError, match="no epoch is open"):
                other.skip()
            dataset.set_epoch(0)
        assert dataset.epoch == 0
        dataset.skip()


def test_copies_share_no_epoch(server: Server, shards: str) -> None:
    def copies(dataset: Any) -> list[Any]:
        return [dataset.map(abs), copy.copy(dataset), copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))]

    with make_dataset(server, shards, "plain-copy") as dataset:
        dataset.set_epoch(0)
        for other in copies(dataset):
            with pytest.raises(LossError, match="no epoch is open"):
                other.skip()
    validation = InfoBatchStreamDataset(shards, policy=None, batch_size=B)
    validation.set_epoch(1)
    for other in copies(validation):
        assert other.epoch == 0
        other.set_epoch(2)
        assert validation.epoch == 1


def set_epoch_2(dataset: Any) -> None:
    dataset.set_epoch(2)
    assert dataset.epoch == 2


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_another_process_shares_no_epoch(context: Any, shards: str) -> None:
    validation = InfoBatchStreamDataset(shards, policy=None, batch_size=B)
    validation.set_epoch(1)
    other = multiprocessing.get_context(context).Process(target=set_epoch_2, args=(validation,))
    other.start()
    other.join(60)
    assert other.exitcode == 0
    assert validation.epoch == 1


def to_named(sample: dict[str, Any]) -> dict[str, Any]:
    return {"number": int(sample["txt"])}


def to_list(sample: dict[str, Any]) -> list[int]:
    return [int(sample["txt"])]


def parts_of(batch: Any) -> tuple[Any, Any, Any]:
    """Numbers, index and weight of a batch of any kind."""
    if isinstance(batch, dict):
        return batch["number"], batch["__index__"], batch["__weight__"]
    numbers, index, weight = batch
    return numbers[0] if isinstance(numbers, list) else numbers, index, weight


@pytest.mark.parametrize(("stage", "workers"), [(to_number, 0), (to_number, 2), (to_named, 0), (to_named, 1)])
def test_a_batch_of_another_dataset_of_the_same_size_and_seed_is_refused(
    stage: Any, workers: int, server: Server, shards: str
) -> None:
    run = f"plain-whose-{stage.__name__}-{workers}"
    one, other = (make_dataset(server, shards, f"{run}-{name}", stage) for name in "ab")
    with one, other:
        one.set_epoch(0)
        other.set_epoch(0)
        loaders = [DataLoader(dataset, batch_size=B, num_workers=workers) for dataset in (one, other)]
        for mine, theirs in zip(*loaders, strict=True):
            numbers, index, weight = parts_of(theirs)
            assert torch.equal(index, parts_of(mine)[1]), "nothing but the mark tells them apart"
            for given in (index, index[:], index.view(B)):
                with pytest.raises(LossError, match="this batch is another dataset's, or of an earlier iterator"):
                    one.update(score(numbers) + 1, given, weight)
                with pytest.raises(LossError, match="another dataset's"):
                    one.push(score(numbers) + 1, given)
            numbers, index, weight = parts_of(mine)
            assert (type(index), index.dtype, tuple(index.shape)) == (torch.Tensor, torch.int64, (B,))
            one.update(score(numbers), index, weight)
            with pytest.raises(LossError, match="another dataset's"):
                one.update(score(numbers) + 1, parts_of(theirs)[1], weight)  # of the batch that was just updated
            other.skip()
        assert one.flush()
    np.testing.assert_array_equal(server.scores(f"{run}-a"), score(torch.arange(SAMPLES)).numpy())


@pytest.mark.parametrize("stage", [to_number, to_named, to_list])
def test_a_tied_collate_function_says_whose_a_batch_is(stage: Any, server: Server, shards: str) -> None:
    run = f"plain-tied-whose-{stage.__name__}"
    one, other = (make_dataset(server, shards, f"{run}-{name}", stage) for name in "ab")
    with one, other:
        one.set_epoch(0)
        other.set_epoch(0)
        loaders = [DataLoader(dataset, batch_size=B, collate_fn=dataset.collate()) for dataset in (one, other)]
        for mine, theirs in zip(*loaders, strict=True):
            index, weight = parts_of(theirs)[1:]
            with pytest.raises(LossError, match="another dataset's"):
                one.update(torch.zeros(B), index, weight)
            numbers, index, weight = parts_of(mine)
            one.update(score(numbers), index, weight)
            other.skip()
        assert one.flush()
    np.testing.assert_array_equal(server.scores(f"{run}-a"), score(torch.arange(SAMPLES)).numpy())


def test_a_batch_of_a_copy_or_of_an_earlier_start_is_refused(server: Server, shards: str) -> None:
    dataset = make_dataset(server, shards, "plain-copied")
    with dataset, make_dataset(server, shards, "plain-copied-too") as other:
        start = copy.copy(other)
        start.set_epoch(0)
        batch = next(iter(DataLoader(start, batch_size=B)))
        dataset.set_epoch(0)
        with pytest.raises(LossError, match="another dataset's"):
            dataset.update(score(batch[0]), *batch[1:])
        start.close()


def test_a_batch_without_a_mark_is_taken_by_its_samples(server: Server, shards: str) -> None:
    def collate(rows: list[Any]) -> Any:
        numbers, index, weight = zip(*rows, strict=True)
        return torch.tensor(numbers), torch.tensor(index), torch.tensor([float(w) for w in weight])

    collate.tied = True  # type: ignore[attr-defined]
    with make_dataset(server, shards, "plain-markless") as dataset:
        dataset.set_epoch(0)
        for step, (numbers, index, weight) in enumerate(DataLoader(dataset, batch_size=B, collate_fn=collate)):
            dataset.update(score(numbers), index, weight)
            if step == 3:
                break
        dataset.set_epoch(1)
        for numbers, index, weight in DataLoader(dataset, batch_size=B):
            dataset.update(score(numbers), index.clone(), weight.clone())
        dataset.set_epoch(2)
        rows = list(DataLoader(dataset, batch_size=None))
        for at in range(0, len(rows), B):
            parts = zip(*rows[at : at + B], strict=True)
            numbers, index, weight = (torch.as_tensor(np.array(part)) for part in parts)
            dataset.update(score(numbers), index, weight)
        assert dataset.progress() == 3
