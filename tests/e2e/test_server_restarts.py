"""A server that is killed and comes back changes nothing: every epoch trains what it would have trained without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rank_processes import call_elsewhere
from tests.e2e.test_embedded_ranks import server_pid
from tests.e2e.training import make_loader, score, train_pass

EPOCHS = 6


def trained(loader: Any, disturb: Callable[[int, int], None] = lambda epoch, step: None) -> list[list[int]]:
    """The numbers that each epoch trained."""
    with loader:
        found = []
        for epoch in loader.epochs():
            seen: list[int] = []
            for step, numbers in enumerate(loader):
                disturb(epoch, step)
                loader.update(score(numbers))
                seen += numbers[loader.weights() > 0].tolist()
            disturb(epoch, -1)
            found.append(sorted(seen))
        assert loader.metrics()["scores_lost"] == 0
        return found


@pytest.fixture(scope="module")
def undisturbed(shards: str, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return trained(make_loader(shards, None, "restarts", 32, epochs=EPOCHS, state_dir=str(folder)))


@pytest.mark.parametrize(
    "moments",
    [[(0, 0)], [(1, 3), (3, 2)], [(2, -1)], [(0, -1), (1, 1), (4, 0)]],
    ids=["first batch", "inside epochs", "between epochs", "three times"],
)
def test_an_embedded_server_that_is_killed_goes_on(
    shards: str, tmp_path: Path, undisturbed: list[list[int]], moments: list[tuple[int, int]]
) -> None:
    pids = []

    def kill(epoch: int, step: int) -> None:
        if (epoch, step) in moments:
            pids.append(server_pid(tmp_path))
            os.kill(pids[-1], signal.SIGKILL)

    loader = make_loader(shards, None, "restarts", 32, epochs=EPOCHS, state_dir=str(tmp_path))
    assert trained(loader, kill) == undisturbed
    assert len(set(pids)) == len(moments)


def first_part(shards: str, folder: str, epoch: int, batches: int) -> tuple[dict[str, Any], list[int]]:
    """Trains up to a batch of an epoch, saves, and is killed, and the server too."""
    loader = make_loader(shards, None, "restarts", 32, epochs=EPOCHS, state_dir=folder)
    for number in loader.epochs():
        seen = train_pass(loader, batches if number == epoch else None)
        if number == epoch:
            loader.flush(10)
            state = loader.state_dict()
            os.kill(server_pid(Path(folder)), signal.SIGKILL)
            return state, seen
    raise AssertionError("no such epoch")


@pytest.mark.parametrize(("epoch", "batches"), [(0, 2), (2, 3), (4, 1)])
def test_a_training_under_the_default_is_resumed_by_another_process(
    shards: str, tmp_path: Path, undisturbed: list[list[int]], epoch: int, batches: int
) -> None:
    state, seen = call_elsewhere(first_part, shards, str(tmp_path), epoch, batches)
    again = {"epochs": EPOCHS, "state_dir": str(tmp_path), "takeover": True}  # the first process holds a lease for 30 s
    loader = make_loader(shards, None, "restarts", 16, **again)
    loader.load_state_dict(state)
    rest = trained(loader)
    assert sorted([*seen, *rest[0]]) == undisturbed[epoch]
    assert len(rest) == EPOCHS - epoch


@contextmanager
def serving(folder: Path, address: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An `infobatch serve` and its gRPC address."""
    command = [sys.executable, "-m", "infobatch_stream", "serve", "--data-dir", str(folder), "--grpc", address]
    with subprocess.Popen([*command, "--http", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().split()[4].rstrip(",")
        finally:
            process.kill()


def test_a_server_of_ones_own_that_is_killed_and_started_again_goes_on(
    shards: str, tmp_path: Path, undisturbed: list[list[int]]
) -> None:
    with serving(tmp_path, "127.0.0.1:0") as (first, address):
        again = []

        def restart(epoch: int, step: int) -> None:
            if (epoch, step) == (2, 1):
                first.kill()
                first.wait()
            if (epoch, step) == (2, 4):
                again.append(serving(tmp_path, address))
                again[0].__enter__()

        try:
            loader = make_loader(shards, address, "restarts", 32, epochs=EPOCHS)
            assert trained(loader, restart) == undisturbed
        finally:
            again[0].__exit__(None, None, None)
