"""The dataset in a plain torch DataLoader: the batches of InfoBatchLoader, and the way back for their losses."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
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
    ProgressLR,
    RunConflictError,
    StateError,
    one_cycle,
)
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.dataset_arguments import dataset_arguments

B = 64


def to_number(sample: dict[str, Any]) -> int:
    return int(sample["txt"])


def to_pair(sample: dict[str, Any]) -> tuple[int, float]:
    return int(sample["txt"]), int(sample["cls"]) / 2


def to_tensor(sample: dict[str, Any]) -> torch.Tensor:
    return torch.tensor([int(sample["txt"]), int(sample["cls"])])


def to_dict(sample: dict[str, Any]) -> dict[str, Any]:
    return {"number": int(sample["txt"]), "__index__": sample["__index__"]}


def not_a_tenth(number: int) -> bool:
    return number % 10 != 3


def score(numbers: torch.Tensor) -> torch.Tensor:
    return torch.sin(numbers.double()).float() + 1


def make_dataset(server: Server, shards: str, run: str, stage: Any = to_number, **settings: Any) -> Any:
    asked = {"epochs": 5, "delta": "0.8", "seed": 2, "batch_size": B, **settings}
    return InfoBatchStreamDataset(shards, url=server.url, run=run, **dataset_arguments(**asked)).map(stage)


def train_epochs(dataset: Any, loader: Any, epochs: range) -> list[list[list[int]]]:
    """Trains, and gives the indices of every batch of every epoch."""
    seen = []
    for epoch in epochs:
        dataset.set_epoch(epoch)
        seen.append([])
        for numbers, index, weight in loader:
            assert index.dtype == torch.int64
            assert weight.dtype == torch.float32
            assert len(index) == B
            dataset.update(score(numbers), index, weight)
            seen[-1].append(index.tolist())
    return seen


@pytest.fixture(scope="session")
def expected(server: Server, shards: str) -> list[list[list[int]]]:
    """The indices of every batch of three epochs of a run, as InfoBatchLoader gives them."""
    seen = []
    dataset = make_dataset(server, shards, "plain-expected", batch_size=None)
    with InfoBatchLoader(dataset, B) as loader:
        for epoch in loader.epochs():
            if epoch == 3:
                break
            seen.append([])
            for ticket, numbers in loader.ticketed():
                loader.update(score(numbers), batch=ticket)
                seen[-1].append(ticket.index.tolist())
    assert len(seen[1]) < len(seen[0])
    return seen


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_the_batches_are_those_of_the_loader_for_any_number_of_workers(
    workers: int, server: Server, shards: str, expected: list[list[list[int]]]
) -> None:
    with make_dataset(server, shards, f"plain-order-{workers}") as dataset:
        loader = DataLoader(dataset, batch_size=B, num_workers=workers)
        assert train_epochs(dataset, loader, range(3)) == expected
        assert dataset.flush()
        real = [number for batch in expected[2] for number in batch if number >= 0]
        np.testing.assert_array_equal(server.scores(f"plain-order-{workers}")[real], score(torch.tensor(real)).numpy())


@pytest.mark.parametrize(
    ("context", "persistent"),
    [
        ("fork", False),
        ("fork", True),
        ("spawn", True),
        ("forkserver", False),
        pytest.param("spawn", False, marks=pytest.mark.long),
        pytest.param("forkserver", True, marks=pytest.mark.long),
    ],
)
def test_workers_of_every_kind_see_each_new_epoch(
    context: str, persistent: bool, server: Server, shards: str, expected: list[list[list[int]]]
) -> None:
    run = f"plain-{context}-{persistent}"
    with make_dataset(server, shards, run) as dataset:
        dataset.set_epoch(0)  # the parent has used gRPC before it makes workers
        loader = DataLoader(
            dataset, batch_size=B, num_workers=2, persistent_workers=persistent, multiprocessing_context=context
        )
        epochs = range(3) if persistent else range(2)
        assert train_epochs(dataset, loader, epochs) == expected[: len(epochs)]
        del loader
        gc.collect()


def test_without_workers_each_pass_is_the_next_epoch(
    server: Server, shards: str, expected: list[list[list[int]]]
) -> None:
    with make_dataset(server, shards, "plain-implicit") as dataset:
        loader = DataLoader(dataset, batch_size=B)
        seen = []
        for _ in range(2):
            seen.append([])
            for numbers, index, weight in loader:
                dataset.update(score(numbers), index, weight)
                seen[-1].append(index.tolist())
        assert seen == expected[:2]
        assert dataset.epoch == 1
        assert dataset.progress() == 2


def test_each_kind_of_payload_carries_its_tie(server: Server, shards: str) -> None:
    def first(stage: Any, name: str) -> Any:
        with make_dataset(server, shards, f"plain-payload-{name}", stage) as dataset:
            dataset.set_epoch(0)
            batch = next(iter(DataLoader(dataset, batch_size=B)))
            index, weight = (batch["__index__"], batch["__weight__"]) if name == "dict" else batch[-2:]
            numbers = {"dict": lambda: batch["number"], "tensor": lambda: batch[0][:, 0]}.get(name, lambda: batch[0])()
            assert numbers.tolist() == index.tolist()
            assert weight.tolist() == [1.0] * B
            return batch

    assert len(first(to_pair, "tuple")) == 4
    assert first(to_dict, "dict").keys() == {"__key__", "number", "__index__", "__weight__"}
    assert len(first(to_tensor, "tensor")) == 3


def test_rows_that_fill_have_no_weight_and_no_score(server: Server, shards: str) -> None:
    dataset = make_dataset(server, shards, "plain-dropped").select(not_a_tenth)
    kept = [number for number in range(SAMPLES) if not_a_tenth(number)]
    with dataset:
        dataset.set_epoch(0)
        seen = []
        for numbers, index, weight in DataLoader(dataset, batch_size=B, num_workers=2):
            assert (weight[index < 0] == 0).all()
            losses = torch.where(index < 0, torch.nan, score(numbers)).requires_grad_()
            mean = dataset.update(losses, index, weight)
            mean.backward()
            assert mean.item() == pytest.approx(score(numbers)[index >= 0].sum().item() / B)
            assert losses.grad is not None
            assert losses.grad.tolist() == (weight / B).tolist()
            seen += index[index >= 0].tolist()
        assert sorted(seen) == kept
        assert dataset.metrics()["rows_dropped"] == SAMPLES - len(kept)
        assert dataset.metrics()["rows_filled"] == 16 * B - len(kept)
        assert dataset.flush()
    assert np.flatnonzero(np.isfinite(server.scores("plain-dropped"))).tolist() == kept


def test_an_epoch_ends_with_its_last_update(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-end") as dataset:
        dataset.set_epoch(0)
        loader = DataLoader(dataset, batch_size=B)
        assert len(loader) == dataset.steps == 16
        for number, (numbers, index, weight) in enumerate(loader):
            if number % 3 == 0:
                dataset.skip()
            elif number % 3 == 1:
                dataset.push(score(numbers), index)
            else:
                dataset.update(score(numbers), index, weight, scores=score(numbers) + 1)
            assert dataset.progress() == (number + 1) * B / SAMPLES if number < 15 else 1.0
        with pytest.raises(LossError, match="all 16 batches of epoch 0 are updated or skipped already"):
            dataset.skip()
        dataset.set_epoch(1)
        assert len(loader) == dataset.steps == -(-dataset.plan.kept // B)


def test_the_same_batch_again_counts_once_and_the_newest_scores_win(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-sam") as dataset:
        dataset.set_epoch(0)
        for numbers, index, weight in DataLoader(dataset, batch_size=B):
            dataset.update(score(numbers), index, weight)
            dataset.update(score(numbers) + 1, index, weight)
            dataset.push(score(numbers) + 2, index)
        assert dataset.progress() == 1
        assert dataset.metrics()["rows_real"] == SAMPLES
        assert dataset.flush()
    expected = score(torch.arange(SAMPLES)) + 2
    np.testing.assert_array_equal(server.scores("plain-sam"), expected.numpy())


def test_an_epoch_of_skipped_batches_is_over_for_the_server(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-skipped") as dataset:
        dataset.set_epoch(0)
        for _ in range(dataset.steps - 1):
            dataset.skip()
        assert dataset.flush()
        assert not server.info("plain-skipped").trained
        dataset.skip()
        assert dataset.flush()
        assert server.info("plain-skipped").trained


def test_a_schedule_goes_by_the_datasets_progress(server: Server, shards: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.1)
    with make_dataset(server, shards, "plain-rate") as dataset:
        schedule = ProgressLR(optimizer, one_cycle(), dataset)
        dataset.set_epoch(0)
        dataset.skip()
        before = schedule.get_last_lr()
        schedule.step()
        assert schedule.get_last_lr() > before


@pytest.mark.parametrize("persistent", [False, True])
def test_a_pass_begins_again_until_something_is_updated(persistent: bool, server: Server, shards: str) -> None:
    with make_dataset(server, shards, f"plain-again-{persistent}") as dataset:
        dataset.set_epoch(0)
        dataset.set_epoch(0)
        loader = DataLoader(dataset, batch_size=B, num_workers=1, persistent_workers=persistent)
        first = next(iter(loader))[1].tolist()
        numbers, index, weight = next(iter(loader))
        assert index.tolist() == first
        dataset.update(score(numbers), index, weight)
        with pytest.raises(ConfigError, match=r"a second pass over epoch 0 after updates.*set_epoch\(1\)"):
            next(iter(loader))
        with pytest.raises(ConfigError, match="a second pass over epoch 0 after updates"):
            dataset.set_epoch(0)
        with pytest.raises(ConfigError, match=r"set_epoch\(2\): epoch 1 is next"):
            dataset.set_epoch(2)
        dataset.set_epoch(1)
        assert len([dataset.skip() for _ in loader]) == dataset.steps


def test_without_workers_a_second_pass_is_refused_too(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-second") as dataset:
        dataset.set_epoch(0)
        stale = iter(dataset)
        rows = iter(dataset)
        assert next(rows)[1] >= 0
        with pytest.raises(ConfigError, match="a pass that is over"):
            next(stale)
        dataset.skip()
        with pytest.raises(ConfigError, match="a second pass over epoch 0"):
            iter(dataset)
        dataset.set_epoch(1)
        with pytest.raises(ConfigError, match="a pass that is over"):
            next(rows)


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


@pytest.mark.parametrize(
    ("batches", "workers", "batch_size", "workers_after"), [(5, 2, 50, 0), (3, 0, 64, 3), (7, 3, 31, 2)]
)
def test_a_training_goes_on_where_its_updates_ended(
    batches: int, workers: int, batch_size: int, workers_after: int, server: Server, shards: str
) -> None:
    run = f"plain-resume-{batches}"
    seen = []
    with make_dataset(server, shards, run) as dataset:
        train_epochs(dataset, DataLoader(dataset, batch_size=B), range(1))
        dataset.set_epoch(1)
        for number, (numbers, index, weight) in enumerate(DataLoader(dataset, batch_size=B, num_workers=workers)):
            if number == batches:
                break  # this batch was read, and isn't trained
            dataset.update(score(numbers), index, weight)
            seen += index.tolist()
        plan_id, state = dataset.plan.plan_id, dataset.state_dict()
        assert dataset.progress() == 1 + batches * B / dataset.plan.kept
    with make_dataset(server, shards, run, batch_size=batch_size) as dataset:
        dataset.load_state_dict(state)
        assert dataset.epoch == 1
        with pytest.raises(ConfigError, match=r"set_epoch\(0\): epoch 1 is next"):
            dataset.set_epoch(0)
        dataset.set_epoch(1)
        assert dataset.plan.plan_id == plan_id
        for numbers, index, weight in DataLoader(dataset, batch_size=batch_size, num_workers=workers_after):
            dataset.update(score(numbers), index, weight)
            seen += index.tolist()
        real = [number for number in seen if number >= 0]
        assert sorted(real) == dataset.plan.kept_between(0, SAMPLES).tolist()
        assert dataset.progress() == 2
        assert dataset.state_dict()["positions"] == len(real)
    np.testing.assert_array_equal(server.scores(run)[real], score(torch.tensor(real)).numpy())


def test_states_pass_between_dataset_and_loader(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-to-loader") as dataset:
        dataset.set_epoch(0)
        dataset.skip()
        state = dataset.state_dict()
    with InfoBatchLoader(make_dataset(server, shards, "plain-to-loader"), B) as loader:
        loader.load_state_dict(state)
        assert next(loader.epochs()) == 0
        assert len(loader) == 15
        next(iter(loader))
        loader.skip()
        state = loader.state_dict()
    with make_dataset(server, shards, "plain-to-loader") as dataset:
        dataset.load_state_dict(state)
        assert dataset.steps == len(dataset) / B == 14
        dataset.set_epoch(0)
        assert dataset.steps == 14


def test_an_epoch_is_begun_at_its_start_without_a_state(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-begin") as dataset:
        train_epochs(dataset, DataLoader(dataset, batch_size=B), range(2))
    with make_dataset(server, shards, "plain-begin", batch_size=32) as dataset:
        with pytest.raises(ConfigError, match=r"set_epoch\(5\): the run's schedule is of 5 epochs"):
            dataset.set_epoch(5)
        dataset.set_epoch(1)
        assert dataset.plan.epoch == 1
        assert dataset.plan.never_scored == 0
    with make_dataset(server, shards, "plain-begin") as dataset, pytest.raises(RunConflictError, match="load a state"):
        dataset.set_epoch(0)


def test_a_state_is_loaded_before_the_first_epoch_or_not_at_all(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-late") as dataset:
        with pytest.raises(StateError, match="no resume state"):
            dataset.load_state_dict({})
        dataset.set_epoch(0)
        state = dataset.state_dict()
        dataset.load_state_dict(state)  # where it stands already
        dataset.skip()
        with pytest.raises(ConfigError, match="before the first epoch"):
            dataset.load_state_dict(state)


def as_list(rows: list[Any]) -> list[Any]:
    return rows


def test_a_collate_function_gets_rows_with_their_ties(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-collate") as dataset:
        dataset.set_epoch(0)
        rows = next(iter(DataLoader(dataset, batch_size=B, num_workers=1, collate_fn=as_list)))
        assert [(type(number), type(index), type(weight)) for number, index, weight in rows] == (
            [(int, int, np.float32)] * B
        )


def test_a_forked_child_takes_nothing_with_it_when_it_ends(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-forked") as dataset:
        dataset.set_epoch(0)
        child = os.fork()
        if child == 0:
            dataset.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert server.info("plain-forked").pid == os.getpid()
        for numbers, index, weight in DataLoader(dataset, batch_size=B, num_workers=1):
            dataset.update(score(numbers), index, weight)
        assert dataset.flush()


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_needs_no_epoch(workers: int, shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False, batch_size=B).map(to_number)
    loader = DataLoader(dataset, batch_size=B, num_workers=workers)
    assert len(loader) == 16
    for _ in range(2):
        batches = list(loader)
        weights = torch.cat([weight for _, _, weight in batches])
        assert torch.cat([index for _, index, _ in batches])[weights > 0].tolist() == list(range(SAMPLES))
        assert [len(numbers) for numbers, _, _ in batches] == [B] * 16
        assert weights.sum() == SAMPLES
    with pytest.raises(ConfigError, match="a validation dataset"):
        dataset.update(torch.ones(B), index=batches[0][1], weight=batches[0][2])


def test_shuffled_validation_takes_its_order_from_the_epoch(shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, policy=None, batch_size=B).map(to_number)
    loader = DataLoader(dataset, batch_size=B, num_workers=2, persistent_workers=True)

    def order() -> list[int]:
        rows = [(index, weight) for _, index, weight in loader]
        index, weight = (torch.cat(parts) for parts in zip(*rows, strict=True))
        return index[weight > 0].tolist()

    first = order()
    assert sorted(first) == list(range(SAMPLES))
    assert order() == first
    dataset.set_epoch(1)
    assert sorted(order()) == list(range(SAMPLES))
    assert order() != first


def test_validation_without_a_batch_size_gives_each_sample_once(shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False).map(to_number)
    rows = [int(number) for number, _, _ in DataLoader(dataset, batch_size=None, num_workers=2)]
    assert sorted(rows) == list(range(SAMPLES)) == sorted(int(number) for number, _, _ in dataset)
    assert len(dataset) == SAMPLES


def test_single_rows_come_where_the_loader_does_not_batch(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "plain-single") as dataset:
        dataset.set_epoch(0)
        rows = list(DataLoader(dataset, batch_size=None))
        assert len(rows) == 16 * B
        numbers, index, weight = (torch.tensor([row[part] for row in rows[:B]]) for part in range(3))
        dataset.update(score(numbers), index, weight)


LEAVES = """
import sys
from torch.utils.data import DataLoader
from tests.e2e.test_plain_loader import B, make_dataset, score
from types import SimpleNamespace
dataset = make_dataset(SimpleNamespace(url=sys.argv[1]), sys.argv[2], "plain-exit")
dataset.set_epoch(0)
for numbers, index, weight in DataLoader(dataset, batch_size=B, num_workers=2):
    dataset.update(score(numbers), index, weight)
"""


def test_what_is_queued_arrives_when_the_program_ends(server: Server, shards: str) -> None:
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", LEAVES, server.url, shards], check=True, timeout=120, cwd=root)
    assert np.isfinite(server.scores("plain-exit")).all()
    assert server.info("plain-exit").pid == 0


def test_a_closed_dataset_says_so(server: Server, shards: str) -> None:
    dataset = make_dataset(server, shards, "plain-closed")
    dataset.set_epoch(0)
    dataset.close()
    dataset.close()
    with pytest.raises(ConfigError, match="is closed"):
        dataset.set_epoch(1)
