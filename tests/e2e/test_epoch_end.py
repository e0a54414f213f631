"""The ends of an epoch: by its last update, by what opens the next, by `break`, by `close()`; and what it counts."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import pytest
import torch

from infobatch_stream import ConfigError, InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.test_epoch_life import make_loader, score, to_number, train_pass


def test_an_epoch_whose_last_updates_come_after_its_last_batch_ends_with_them(server: Server, shards: str) -> None:
    with make_loader(server, shards, "late-updates") as loader:
        epochs = loader.epochs()
        next(epochs)
        held = list(loader.ticketed())
        assert loader.progress() == 1.0
        for ticket, numbers in held[:-1]:
            loader.update(score(numbers), batch=ticket)
        assert loader.flush()
        assert server.stats("late-updates")["epochs_ended"] == 0
        loader.push(score(held[-1][1]), batch=held[-1][0])
        assert server.stats("late-updates")["epochs_ended"] == 1
        assert next(epochs) == 1  # with no word of batches that were never updated
        assert loader.plan.never_scored == 0


def test_an_epoch_with_updates_left_out_ends_when_the_next_opens(server: Server, shards: str) -> None:
    with make_loader(server, shards, "updates-left-out") as loader:
        for number, (ticket, numbers) in enumerate(loader.ticketed()):
            if number % 2:
                loader.update(score(numbers), batch=ticket)
        with pytest.warns(UserWarning, match="8 of 16 batches of epoch 0 were never updated"):
            iter(loader)
        assert loader.epoch == 1
        assert server.stats("updates-left-out")["epochs_ended"] == 1


@pytest.mark.parametrize("updated_first", [True, False])
def test_a_state_of_after_the_last_batch_is_the_start_of_the_next_epoch(
    updated_first: bool, server: Server, shards: str
) -> None:
    run = f"last-batch-{updated_first}"
    with make_loader(server, shards, run) as loader:
        for epoch in loader.epochs():
            for numbers in loader:
                state = loader.state_dict()
                loader.update(score(numbers))
                state = loader.state_dict() if updated_first else state
            if epoch == 1:
                break
        assert state["epoch"] == 1
        assert state["positions"] == state["epoch_positions"] == loader.plan.kept
    with make_loader(server, shards, run) as loader:
        loader.load_state_dict(state)
        assert loader.progress() == 2.0
        assert list(loader.epochs()) == [2, 3, 4]


def test_breaking_out_counts_what_was_given(server: Server, shards: str) -> None:
    with make_loader(server, shards, "break-counts") as loader:
        for epoch in loader.epochs():
            for count, numbers in enumerate(loader, start=1):
                loader.update(score(numbers))
                if count == 3:
                    break
            assert loader.progress() == epoch + 3 * 64 / loader.plan.kept
            if epoch == 2:
                break
            assert server.stats("break-counts")["epochs_ended"] == epoch
    found = server.stats("break-counts")
    assert (found["epochs_ended"], found["trained_samples"]) == (3, 9 * 64)


def test_without_epochs_a_pass_after_an_update_is_the_next_epoch(server: Server, shards: str) -> None:
    with make_loader(server, shards, "implicit-break") as loader:
        next(iter(loader))
        loader.update(score(next(iter(loader))))
        assert loader.epoch == 0
        first = next(iter(loader)).tolist()
        assert loader.epoch == 1
        assert next(iter(loader)).tolist() == first
        assert loader.epoch == 1
        kept = loader.plan.kept
        assert len(train_pass(loader)) == kept
        next(iter(loader))
        assert loader.epoch == 2
    assert server.stats("implicit-break")["trained_samples"] == 64 + kept + 64


SETTLE: dict[str, Callable[[InfoBatchLoader, torch.Tensor], object]] = {
    "update": lambda loader, numbers: loader.update(score(numbers)),
    "update of some rows": lambda loader, numbers: loader.update(score(numbers)[:5], rows=slice(0, 5)),
    "push": lambda loader, numbers: loader.push(score(numbers)),
    "skip": lambda loader, _: loader.skip(),
}


@pytest.mark.parametrize("how", SETTLE)
@pytest.mark.parametrize("opened_by", ["epochs", "set_epoch"])
def test_what_counts_as_an_update(how: str, opened_by: str, server: Server, shards: str) -> None:
    with make_loader(server, shards, f"counts-{opened_by}-{how}".replace(" ", "-")) as loader:
        if opened_by == "epochs":
            next(loader.epochs())
        else:
            loader.set_epoch(0)
        next(iter(loader))
        SETTLE[how](loader, next(iter(loader)))
        with pytest.raises(ConfigError, match="a second pass over epoch 0 after updates"):
            iter(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_closing_in_mid_epoch_ends_it_where_it_stands(workers: int, server: Server, shards: str) -> None:
    run = f"close-{workers}"
    loader = make_loader(server, shards, run, num_workers=workers)
    batches = iter(loader)
    seen = []
    for _ in range(5):
        numbers = next(batches)
        loader.update(score(numbers))
        seen += numbers.tolist()
    before = loader.state_dict(), loader.progress(), len(loader)
    loader.close()
    assert (loader.state_dict(), loader.progress(), len(loader)) == before
    for call in (lambda: next(batches), lambda: iter(loader), lambda: loader.set_epoch(0)):
        with pytest.raises(ConfigError, match=r"a pass that is over|this loader is closed"):
            call()
    with pytest.raises(ConfigError, match="this loader is closed"):
        next(loader.epochs())
    with pytest.raises(ConfigError, match="this loader is closed: it takes no scores any more"):
        loader.update(score(numbers))
    found = server.stats(run)
    assert (found["epochs_ended"], found["trained_samples"], found["stored_scores"]) == (1, 320, 320)
    with make_loader(server, shards, run, num_workers=workers) as again:
        again.load_state_dict(before[0])
        assert sorted(seen + train_pass(again)) == list(range(SAMPLES))


def test_a_loop_may_close_its_loader_in_the_last_epoch(server: Server, shards: str) -> None:
    loader = make_loader(server, shards, "close-last")
    for epoch in loader.epochs():
        train_pass(loader)
        if epoch == 4:
            loader.close()
    assert server.stats("close-last")["epochs_ended"] == 5


def test_an_iterator_outlives_its_loader(shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False).map(to_number)
    batches = iter(InfoBatchLoader(dataset, 64, num_workers=2))
    gc.collect()
    assert sum(1 for _ in batches) == 16


def test_the_gap_between_epochs_is_from_the_last_batch_to_the_first(server: Server, shards: str) -> None:
    before_last_s = after_last_s = 0.0
    with make_loader(server, shards, "gap") as loader:
        for epoch in loader.epochs():
            opened_s = time.monotonic()
            batches = iter(loader)
            numbers = next(batches)
            if epoch:
                gap_s = loader.metrics()["epoch_gap_s"]
                assert opened_s - after_last_s <= gap_s <= time.monotonic() - before_last_s
                numbers = next(batches := iter(loader))  # a second look is no second gap
                assert loader.metrics()["epoch_gap_s"] == gap_s
            else:
                assert "epoch_gap_s" not in loader.metrics()
            for _ in range(len(loader) - 1):
                loader.update(score(numbers))
                before_last_s = time.monotonic()
                numbers = next(batches)
                after_last_s = time.monotonic()
            loader.update(score(numbers))
            assert next(batches, None) is None
            if epoch == 2:
                break
