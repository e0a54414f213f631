"""torchdata's StatefulDataLoader: stopped in mid-epoch, another process goes on without loss or repeat."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from infobatch_stream import ConfigError, InfoBatchStreamDataset, StateError
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.rank_processes import call_elsewhere
from tests.e2e.test_plain_loader import B, make_dataset, score, to_number

StatefulDataLoader = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

# torchdata's own call of something that torch has deprecated since
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


def first_part(
    url: str, shards: str, run: str, epoch: int, batches: int, workers: int, ahead: int = 0, **loading: Any
) -> dict[str, Any]:
    """Trains up to `batches` batches of an epoch, while `ahead` more are taken from the loader, and saves."""
    seen: list[int] = []
    with make_dataset(SimpleNamespace(url=url), shards, run) as dataset:  # type: ignore[arg-type]
        loader = StatefulDataLoader(dataset, batch_size=B, num_workers=workers, **loading)
        for number in range(epoch + 1):
            dataset.set_epoch(number)
            taken: list[Any] = []
            updated = 0
            for batch in loader:
                taken.append(batch)
                if len(taken) > ahead:
                    numbers, index, weight = taken.pop(0)
                    dataset.update(score(numbers), index, weight)
                    updated += 1
                    seen += index[index >= 0].tolist() if number == epoch else []
                if number == epoch and updated == batches:
                    break
        return {
            "seen": seen,
            "plan": dataset.plan.plan_id,
            "dataset": dataset.state_dict(),
            "loader": loader.state_dict(),
        }


def stopped(server: Server, shards: str, run: str, **where: Any) -> dict[str, Any]:
    """What `first_part` gives, as a checkpoint file would keep it."""
    found: dict[str, Any] = json.loads(json.dumps(first_part(server.url, shards, run, **where)))
    return found


def stopped_elsewhere(server: Server, shards: str, run: str, **where: Any) -> dict[str, Any]:
    """What `first_part` gives in a process of its own."""
    found: dict[str, Any] = json.loads(json.dumps(call_elsewhere(first_part, server.url, shards, run, **where)))
    return found


def train(dataset: Any, loader: Any) -> list[int]:
    """Trains a pass, and gives its samples."""
    seen: list[int] = []
    for numbers, index, weight in loader:
        dataset.update(score(numbers), index, weight)
        seen += index[index >= 0].tolist()
    return seen


@pytest.mark.parametrize(
    ("workers", "with_loader_state"),
    [
        (0, False),
        (1, True),
        (2, False),
        (3, True),
        pytest.param(0, True, marks=pytest.mark.long),
        pytest.param(1, False, marks=pytest.mark.long),
        pytest.param(2, True, marks=pytest.mark.long),
        pytest.param(3, False, marks=pytest.mark.long),
    ],
)
def test_an_epoch_goes_on_without_loss_or_repeat(
    workers: int, with_loader_state: bool, server: Server, shards: str
) -> None:
    run = f"stateful-{workers}-{with_loader_state}"
    saved = stopped_elsewhere(server, shards, run, epoch=1, batches=4, workers=workers)
    with make_dataset(server, shards, run) as dataset:
        dataset.load_state_dict(saved["dataset"])
        loader = StatefulDataLoader(dataset, batch_size=B, num_workers=workers)
        if with_loader_state:
            loader.load_state_dict(saved["loader"])
        dataset.set_epoch(1)
        assert dataset.plan.plan_id == saved["plan"]
        seen = saved["seen"] + train(dataset, loader)
        assert sorted(seen) == dataset.plan.kept_between(0, SAMPLES).tolist()
        dataset.set_epoch(2)
        assert sorted(train(dataset, loader)) == dataset.plan.kept_between(0, SAMPLES).tolist()
    np.testing.assert_array_equal(server.scores(run)[seen], score(torch.tensor(seen)).numpy())


def test_the_order_is_that_of_an_epoch_that_was_not_stopped(server: Server, shards: str) -> None:
    saved = stopped(server, shards, "stateful-whole", epoch=0, batches=16, workers=0)
    for batches, workers in ((5, 3), (4, 3), (7, 2)):
        run = f"stateful-order-{batches}-{workers}"
        part = stopped(server, shards, run, epoch=0, batches=batches, workers=workers)
        with make_dataset(server, shards, run) as dataset:
            dataset.load_state_dict(part["dataset"])
            loader = StatefulDataLoader(dataset, batch_size=B, num_workers=workers)
            loader.load_state_dict(part["loader"])
            dataset.set_epoch(0)
            assert part["seen"] + train(dataset, loader) == saved["seen"]


def test_a_second_stop_in_the_same_epoch_goes_on_too(server: Server, shards: str) -> None:
    run = "stateful-twice"
    saved = stopped(server, shards, run, epoch=0, batches=4, workers=3)
    seen = saved["seen"]
    for batches in (2, 0, 4, 100):
        with make_dataset(server, shards, run) as dataset:
            dataset.load_state_dict(saved["dataset"])
            loader = StatefulDataLoader(dataset, batch_size=B, num_workers=3)
            loader.load_state_dict(saved["loader"])
            dataset.set_epoch(0)
            rows = iter(loader)
            for numbers, index, weight in itertools.islice(rows, batches):
                dataset.update(score(numbers), index, weight)
                seen += index[index >= 0].tolist()
            saved = {"dataset": dataset.state_dict(), "loader": loader.state_dict()}
    assert sorted(seen) == list(range(SAMPLES))
    assert seen == stopped(server, shards, "stateful-once", epoch=0, batches=16, workers=0)["seen"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("with_loader_state", [False, True])
def test_batches_that_were_taken_and_not_updated_come_again(
    workers: int, with_loader_state: bool, server: Server, shards: str
) -> None:
    run = f"stateful-ahead-{workers}-{with_loader_state}"
    saved = stopped(server, shards, run, epoch=0, batches=4, workers=workers, ahead=3)
    with make_dataset(server, shards, run) as dataset:
        dataset.load_state_dict(saved["dataset"])
        loader = StatefulDataLoader(dataset, batch_size=B, num_workers=workers)
        if with_loader_state:
            loader.load_state_dict(saved["loader"])
        dataset.set_epoch(0)
        assert len(saved["seen"]) == 4 * B
        assert sorted(saved["seen"] + train(dataset, loader)) == list(range(SAMPLES))


def test_other_workers_and_batches_go_on_by_the_datasets_state(server: Server, shards: str) -> None:
    saved = stopped(server, shards, "stateful-other", epoch=1, batches=3, workers=2)
    with make_dataset(server, shards, "stateful-other", batch_size=37) as dataset:
        dataset.load_state_dict(saved["dataset"])
        dataset.set_epoch(1)
        seen = saved["seen"] + train(dataset, StatefulDataLoader(dataset, batch_size=37, num_workers=3))
        assert sorted(seen) == dataset.plan.kept_between(0, SAMPLES).tolist()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batches", [16, 100])  # before and after the loader has seen its end
def test_a_state_after_the_last_batch_goes_on_with_the_next_epoch(
    batches: int, workers: int, server: Server, shards: str
) -> None:
    run = f"stateful-end-{workers}-{batches}"
    saved = stopped(server, shards, run, epoch=0, batches=batches, workers=workers)
    with make_dataset(server, shards, run) as dataset:
        dataset.load_state_dict(saved["dataset"])
        loader = StatefulDataLoader(dataset, batch_size=B, num_workers=workers)
        loader.load_state_dict(saved["loader"])
        assert dataset.epoch == 1
        for epoch in (1, 2):
            dataset.set_epoch(epoch)
            assert sorted(train(dataset, loader)) == dataset.plan.kept_between(0, SAMPLES).tolist()


def test_without_workers_the_loaders_state_holds_the_datasets(server: Server, shards: str) -> None:
    saved = stopped(server, shards, "stateful-alone", epoch=1, batches=4, workers=0)
    with make_dataset(server, shards, "stateful-alone") as dataset:
        loader = StatefulDataLoader(dataset, batch_size=B)
        loader.load_state_dict(saved["loader"])
        seen = saved["seen"] + train(dataset, loader)
        assert dataset.epoch == 1
        assert sorted(seen) == dataset.plan.kept_between(0, SAMPLES).tolist()


def test_persistent_workers_go_on_and_see_the_next_epoch(server: Server, shards: str) -> None:
    kept = {"workers": 2, "persistent_workers": True}
    saved = stopped(server, shards, "stateful-kept", epoch=1, batches=5, **kept)
    with make_dataset(server, shards, "stateful-kept") as dataset:
        dataset.load_state_dict(saved["dataset"])
        loader = StatefulDataLoader(dataset, batch_size=B, num_workers=2, persistent_workers=True)
        loader.load_state_dict(saved["loader"])
        dataset.set_epoch(1)
        assert sorted(saved["seen"] + train(dataset, loader)) == dataset.plan.kept_between(0, SAMPLES).tolist()
        for epoch in (2, 3):
            dataset.set_epoch(epoch)
            assert sorted(train(dataset, loader)) == dataset.plan.kept_between(0, SAMPLES).tolist()


def test_a_loaders_state_without_the_datasets_is_refused(server: Server, shards: str) -> None:
    saved = stopped(server, shards, "stateful-half", epoch=0, batches=4, workers=2)
    with make_dataset(server, shards, "stateful-half", if_exists="restart") as dataset:
        loader = StatefulDataLoader(dataset, batch_size=B, num_workers=2)
        loader.load_state_dict(saved["loader"])
        with pytest.raises(ConfigError, match=r"call dataset\.set_epoch"):
            next(iter(loader))
        dataset.set_epoch(0)
        loader.load_state_dict(saved["loader"])
        with pytest.raises(StateError, match=r"plan .*the dataset's open epoch is 0.*dataset\.load_state_dict"):
            next(iter(loader))


def test_a_loaders_state_of_another_place_is_refused(server: Server, shards: str) -> None:
    saved = stopped(server, shards, "stateful-place", epoch=0, batches=4, workers=2)
    with make_dataset(server, shards, "stateful-place") as dataset:
        dataset.load_state_dict({**saved["dataset"], "positions": 9 * B})
        dataset.set_epoch(0)
        loader = StatefulDataLoader(dataset, batch_size=B, num_workers=2)
        loader.load_state_dict(saved["loader"])
        with pytest.raises(StateError, match=r"saved at position 256 of epoch 0, the dataset is at 576"):
            next(iter(loader))


@pytest.mark.parametrize(("batches", "ahead"), [(6, 0), (3, 3)])
def test_a_loader_that_throws_batches_away_is_found_out(batches: int, ahead: int, server: Server, shards: str) -> None:
    run = f"stateful-thrown-{ahead}"
    where = {"epoch": 0, "batches": batches, "workers": 1, "ahead": ahead, "snapshot_every_n_steps": 4}
    saved = stopped(server, shards, run, **where)
    with make_dataset(server, shards, run) as dataset:
        dataset.load_state_dict(saved["dataset"])
        dataset.set_epoch(0)
        loader = StatefulDataLoader(dataset, batch_size=B, num_workers=1, snapshot_every_n_steps=4)
        loader.load_state_dict(saved["loader"])
        with pytest.raises(StateError, match="snapshot_every_n_steps=1"):
            train(dataset, loader)


def test_a_state_that_is_none_of_ours_is_refused(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "stateful-none") as dataset:
        dataset.set_epoch(0)
        rows = iter(dataset)
        with pytest.raises(StateError, match="not a state of an InfoBatchStreamDataset's worker"):
            rows.load_state_dict({"rows": 5})
        next(rows)
        with pytest.raises(StateError, match="1 rows into batches of 64"):
            iter(dataset).load_state_dict(rows.state_dict())


@pytest.mark.parametrize("workers", [0, 3])
def test_a_validation_pass_goes_on_by_the_loaders_state(workers: int, shards: str) -> None:
    def make(batch_size: int = B) -> Any:
        dataset = InfoBatchStreamDataset(shards, policy=None, batch_size=batch_size).map(to_number)
        return StatefulDataLoader(dataset, batch_size=B, num_workers=workers)

    def rest(loader: Any) -> list[int]:
        return [sample for _, index, _ in loader for sample in index.tolist() if sample >= 0]

    whole = rest(make())
    loader = make()
    seen: list[int] = []
    for number, (_, index, _) in enumerate(loader, start=1):
        seen += index.tolist()
        if number == 5:
            break
    state = loader.state_dict()
    again = make()
    again.load_state_dict(state)
    assert seen + rest(again) == whole
    other = make(32)
    other.load_state_dict(state)
    with pytest.raises(StateError, match=r"with batch_size=64; this one has batch_size=32"):
        rest(other)
