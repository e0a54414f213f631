"""Loops that choose the epoch or the number of steps themselves: `set_epoch(e)`, and `epochs(max_steps=)`."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import pytest

from infobatch_client.run.options import Timeouts
from infobatch_stream import ConfigError, Connection, InfoBatchLoader, InfoBatchStreamDataset, ServerUnreachableError
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.test_epoch_life import make_loader, score, to_number, train_pass


def test_set_epoch_opens_one_epoch_after_the_other(server: Server, shards: str) -> None:
    with make_loader(server, shards, "set") as loader:
        for epoch in range(loader.num_epochs):
            loader.set_epoch(epoch)
            assert loader.epoch == epoch
            assert loader.progress() == epoch
            assert sorted(train_pass(loader)) == loader.plan.kept_between(0, SAMPLES).tolist()
            assert loader.progress() == epoch + 1
            with pytest.raises(ConfigError, match=rf"a second pass over epoch {epoch} .*set_epoch\({epoch + 1}\)"):
                iter(loader)
        with pytest.raises(ConfigError, match=r"set_epoch\(5\): the run's schedule is of 5 epochs"):
            loader.set_epoch(5)
    assert server.stats("set")["epochs_ended"] == 5


def test_set_epoch_again_before_an_update_changes_nothing(server: Server, shards: str) -> None:
    with make_loader(server, shards, "set-again") as loader:
        first = next(iter(loader)).tolist()  # opens epoch 0 by itself
        loader.set_epoch(0)
        plan = loader.plan
        loader.set_epoch(0)
        stale = iter(loader)
        assert next(stale).tolist() == first
        loader.set_epoch(0)
        assert loader.plan is plan
        assert loader.progress() == 0.0
        with pytest.raises(ConfigError, match="a pass that is over"):
            next(stale)
        assert sorted(train_pass(loader)) == list(range(SAMPLES))
        with pytest.raises(ConfigError, match=r"set_epoch\(0\): epoch 1 is next"):
            loader.set_epoch(0)


@pytest.mark.parametrize(
    ("epoch", "message"),
    [
        (2, r"set_epoch\(2\): epoch 1 is next; .* load a state"),
        (7, r"set_epoch\(7\): the run's schedule is of 5 epochs"),
        (-1, r"epoch=-1 must be at least 0"),
        (1.0, r"epoch=1.0 is a float; it must be a whole number"),
        (True, r"epoch=True is a bool"),
    ],
)
def test_an_epoch_that_is_not_the_next_is_refused(epoch: Any, message: str, server: Server, shards: str) -> None:
    with make_loader(server, shards, "set-wrong", if_exists="restart") as loader:
        loader.set_epoch(0)
        batches = iter(loader)
        loader.update(score(next(batches)))
        with pytest.raises(ConfigError, match=message):
            loader.set_epoch(epoch)
        loader.update(score(next(batches)))  # nothing has changed
        loader.set_epoch(1)
        with pytest.raises(ConfigError, match="a pass that is over"):
            next(batches)


def test_set_epoch_begins_in_the_middle_of_a_run_that_exists(server: Server, shards: str) -> None:
    with make_loader(server, shards, "set-later") as loader:
        for epoch in range(4):
            loader.set_epoch(epoch)
            train_pass(loader)
    before = server.scores("set-later")
    with make_loader(server, shards, "set-later", if_exists="restart") as loader:
        loader.set_epoch(2)
        assert loader.epoch == 2
        assert loader.plan.never_scored == 0
        assert loader.plan.pruned > 0
        train_pass(loader)
        assert next(loader.epochs()) == 3
    assert (server.scores("set-later") == before).all()
    assert server.info("set-later").generation == 2


def test_set_epoch_after_loading_a_state_must_be_the_states(server: Server, shards: str) -> None:
    with make_loader(server, shards, "set-state") as loader:
        for epoch in range(2):
            loader.set_epoch(epoch)
            batches = iter(loader)
            for _ in range(4):
                loader.update(score(next(batches)))
        state = loader.state_dict()
    with make_loader(server, shards, "set-state") as loader:
        loader.load_state_dict(state)
        with pytest.raises(ConfigError, match=r"set_epoch\(2\): epoch 1 is next"):
            loader.set_epoch(2)
        loader.set_epoch(1)
        assert loader.progress() == 1 + 4 * 64 / loader.plan.kept
        assert len(train_pass(loader)) == loader.plan.kept - 4 * 64


def test_set_epoch_that_failed_can_be_called_again(shards: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        dataset = InfoBatchStreamDataset(
            shards, url=url, run="nobody", epochs=5, connection=Connection(timeouts=Timeouts(connect_timeout_s=0.3))
        ).map(to_number)
        loader = InfoBatchLoader(dataset, 64)
        for _ in range(2):
            with pytest.raises(ServerUnreachableError):
                loader.set_epoch(3)
        state = loader.state_dict()
        InfoBatchLoader(dataset, 64).load_state_dict(state)


def test_the_epoch_of_a_validation_loader_chooses_its_order(shards: str) -> None:
    def order(loader: InfoBatchLoader) -> list[int]:
        return [number for numbers in loader for number in numbers.tolist()]

    def make(shuffle: bool) -> InfoBatchLoader:
        return InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None, shuffle=shuffle, seed=3).map(to_number), 64)

    loader, other = make(True), make(True)
    found = {}
    for epoch in (7, 0, 3):
        loader.set_epoch(epoch)
        found[epoch] = order(loader)
        assert order(loader) == found[epoch]
        assert sorted(found[epoch][:SAMPLES]) == list(range(SAMPLES))
    assert found[7] != found[3] != found[0]
    other.set_epoch(3)
    assert order(other) == found[3]
    plain = make(False)
    plain.set_epoch(3)
    assert order(plain)[:SAMPLES] == list(range(SAMPLES))


@pytest.mark.parametrize("workers", [0, 2])
def test_max_steps_stops_in_mid_epoch_and_leaves_a_state(workers: int, server: Server, shards: str) -> None:
    run = f"max-steps-{workers}"
    with make_loader(server, shards, run, num_workers=workers) as loader:
        lengths, seen = [], {}
        for epoch in loader.epochs(max_steps=16 + 5):
            lengths.append(len(loader))
            seen[epoch] = train_pass(loader)
            lengths.append(len(loader))
        assert lengths == [16, 16, 5, 5]
        kept = loader.plan.kept
        kept_samples = loader.plan.kept_between(0, SAMPLES).tolist()
        assert loader.progress() == 1 + 5 * 64 / kept
        found = server.stats(run)
        assert (found["epochs_ended"], found["trained_samples"]) == (2, SAMPLES + 5 * 64)
        state = loader.state_dict()
    assert loader.state_dict() == state
    assert (state["epoch"], state["positions"], state["epoch_positions"]) == (1, 5 * 64, kept)
    with make_loader(server, shards, run, num_workers=workers) as loader:
        loader.load_state_dict(state)
        for epoch in loader.epochs(max_steps=4):
            seen[epoch] += train_pass(loader)
        assert loader.progress() == 1 + 9 * 64 / kept
        state = loader.state_dict()
    with make_loader(server, shards, run, num_workers=workers) as loader:
        loader.load_state_dict(state)
        for epoch in loader.epochs():
            seen[epoch] = seen.get(epoch, []) + train_pass(loader)
        assert loader.progress() == 5
    assert list(seen) == [0, 1, 2, 3, 4]
    assert sorted(seen[1]) == kept_samples
    numbers = np.arange(SAMPLES)
    np.testing.assert_array_equal(server.scores(run), (numbers % 17).astype(np.float32))


def test_max_steps_at_the_end_of_an_epoch_ends_it(server: Server, shards: str) -> None:
    with make_loader(server, shards, "max-whole") as loader:
        assert [len(train_pass(loader)) for _ in loader.epochs(max_steps=16)] == [SAMPLES]
        assert loader.progress() == 1.0
        assert (loader.state_dict()["epoch"], loader.state_dict()["positions"]) == (1, 0)
        assert next(loader.epochs(max_steps=np.int64(3))) == 1
        assert len(loader) == 3


def test_max_steps_counts_batches_of_epochs_that_were_broken_off_and_no_first_looks(
    server: Server, shards: str
) -> None:
    with make_loader(server, shards, "max-broken") as loader:
        given = []
        next(iter(loader))
        for epoch in loader.epochs(max_steps=6):
            next(iter(loader))
            loader.set_epoch(epoch)  # says nothing new, and lifts no limit
            for count, numbers in enumerate(loader, start=1):
                loader.update(score(numbers))
                if count == 4:
                    break
            given.append(count)
        assert given == [4, 2]


def test_max_steps_beyond_the_training_changes_nothing(server: Server, shards: str) -> None:
    with make_loader(server, shards, "max-beyond") as loader:
        assert [epoch for epoch in loader.epochs(max_steps=10**6) if train_pass(loader)] == [0, 1, 2, 3, 4]
        assert loader.progress() == 5


def test_max_steps_with_updates_that_come_late(server: Server, shards: str) -> None:
    with make_loader(server, shards, "max-late") as loader:
        for _ in loader.epochs(max_steps=3):
            held = list(loader.ticketed())
        assert len(held) == 3
        assert server.stats("max-late")["epochs_ended"] == 0
        for ticket, numbers in held:
            loader.update(score(numbers), batch=ticket)
        found = server.stats("max-late")
        assert (found["epochs_ended"], found["trained_samples"], found["stored_scores"]) == (1, 192, 192)


@pytest.mark.parametrize(
    ("max_steps", "message"),
    [
        (0, "max_steps=0 must be at least 1"),
        (-3, "max_steps=-3 must be at least 1"),
        (2.5, "max_steps=2.5 is a float; it must be a whole number"),
        (True, "max_steps=True is a bool"),
        ("9", "max_steps='9' is a str"),
    ],
)
def test_a_max_steps_that_can_not_be_meant_is_refused_at_once(
    max_steps: Any, message: str, server: Server, shards: str
) -> None:
    with make_loader(server, shards, "never-made") as loader, pytest.raises(ConfigError, match=message):
        loader.epochs(max_steps)
