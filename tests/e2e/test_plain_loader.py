"""The dataset in a plain torch DataLoader: the batches of InfoBatchLoader, and the way back for their losses."""

from __future__ import annotations

import gc
import os
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


@pytest.mark.filterwarnings("ignore:the pipeline has dropped")
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


def as_list(rows: list[Any]) -> list[Any]:
    return rows


as_list.tied = True  # type: ignore[attr-defined]


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

    first, second = order(), order()
    assert sorted(first) == sorted(second) == list(range(SAMPLES))
    assert first != second
    dataset.set_epoch(0)
    assert [order(), order()] == [first, first]
    dataset.set_epoch(1)
    assert order() == second


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
