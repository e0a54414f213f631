"""A start that can't go well says so at once, and what to do: a held run, a run of this process, a finished one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from infobatch_client.rpc.client import ScoreClient
from infobatch_server.server import ScoreServer
from infobatch_stream import ConfigError, InfoBatchLoader, RunBusyError, RunConflictError
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.e2e.conftest import Server, make_shards
from tests.e2e.training import make_loader, train_pass
from tests.server.calls import attach_request
from tests.server.conftest import Clock

AT_ONCE_S = 10.0  # the lease is of 30


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(clock: Clock) -> Iterator[str]:
    """A score server in this process, whose leases last until the test moves the clock."""
    with ScoreServer(clock=clock) as server:
        yield str(server.grpc_address)


@pytest.fixture
def small(tmp_path: Path) -> str:
    return str(make_shards(tmp_path, [20, 12]))


def train(loader: InfoBatchLoader, epochs: int) -> None:
    for _ in range(epochs):
        loader.set_epoch(loader.epoch if loader.progress() == 0 else loader.epoch + 1)
        train_pass(loader)


@contextmanager
def another_job(url: str, run: str, *, epoch: int = 0) -> Iterator[tuple[ScoreClient, pb.HeartbeatRequest]]:
    """A job of another process that holds the run, and the heartbeat that it would send."""
    client = ScoreClient(url)
    run_id = client.get_run(pb.GetRunRequest(run=run)).run.run_id
    resume = pb.Resume(start=pb.Resume.Start(epoch=epoch)) if epoch else pb.Resume(new=pb.Resume.New())
    generation = client.attach_run(attach_request(run_id, resume=resume)).generation
    yield client, pb.HeartbeatRequest(run_id=run_id, generation=generation)
    client.close()


def test_a_run_that_a_living_job_holds_is_refused_at_its_next_heartbeat(url: str, small: str, clock: Clock) -> None:
    with make_loader(small, url, "alive", 8) as loader:
        next(loader.epochs())
    stop = threading.Event()
    with another_job(url, "alive") as (client, heartbeat), make_loader(small, url, "alive", 8) as second:

        def live() -> None:
            while not stop.wait(0.1):
                clock.now += 0.1
                client.heartbeat(heartbeat)

        life = threading.Thread(target=live)
        life.start()
        started_s = time.monotonic()
        try:
            with pytest.raises(RunBusyError) as refused:
                next(second.epochs())
        finally:
            stop.set()
            life.join()
        assert time.monotonic() - started_s < AT_ONCE_S
    said = str(refused.value)
    assert said.startswith("run 'alive' is held by another process on host 'node1', pid 41")
    assert "connection=Connection(takeover=True)" in said
    assert "that job is alive" in said


def test_a_small_jobs_heartbeat_shows_within_a_second_that_it_is_alive(url: str, small: str) -> None:
    with make_loader(small, url, "beats", 8) as loader:
        next(loader.epochs())
    client = ScoreClient(url)
    run_id = client.get_run(pb.GetRunRequest(run="beats")).run.run_id
    intervals_ms = {
        ranks: client.attach_run(
            attach_request(run_id, world_size=ranks, nonce=bytes([ranks % 251]) * 16, takeover=True)
        ).heartbeat_interval_ms
        for ranks in (1, 64, 300, 5000)
    }
    client.close()
    assert intervals_ms == {1: 1000, 64: 1000, 300: 3000, 5000: 5000}


def test_a_new_training_of_a_trained_run_does_not_wait_for_its_lease_in_vain(
    url: str, small: str, caplog: pytest.LogCaptureFixture
) -> None:
    with make_loader(small, url, "dead", 8) as loader:
        train(loader, 1)
    started_s = time.monotonic()
    with another_job(url, "dead", epoch=1), make_loader(small, url, "dead", 8) as second:  # never calls again
        with pytest.raises(RunBusyError) as refused:
            next(second.epochs())
        assert time.monotonic() - started_s < AT_ONCE_S
        assert "waiting" not in caplog.text
    said = str(refused.value)
    assert "run 'dead' is held by another process on host 'node1'" in said
    assert "has been trained (newest epoch: 0 of 5)" in said
    assert 'if_exists="restart" in connection=Connection(…)' in said
    assert "takeover=True" in said


def test_the_lease_of_a_dead_job_is_waited_for_with_a_word_at_once(
    url: str, small: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with make_loader(small, url, "dies", 8) as loader:
        train(loader, 1)
        state = loader.state_dict()
    with another_job(url, "dies", epoch=1), make_loader(small, url, "dies", 8) as second:
        second.load_state_dict(state)

        def expire_after_the_word() -> None:
            deadline_s = time.monotonic() + 60
            while "waiting up to 30 s for the run's lease to expire" not in caplog.text:
                if time.monotonic() > deadline_s:
                    return
                time.sleep(0.02)
            clock.now += 31

        expiry = threading.Thread(target=expire_after_the_word)
        expiry.start()
        assert next(second.epochs()) == 1
        expiry.join()
    assert "takeover=True" in caplog.text


def test_a_run_of_this_process_says_where_it_was_opened_and_how_to_get_it_back(url: str, small: str) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(make_loader(small, url, "cell", 8))
        train(first, 1)
        again = stack.enter_context(make_loader(small, url, "cell", 8, if_exists="restart"))
        with pytest.raises(RunBusyError) as refused:
            next(again.epochs())
        said = str(refused.value)
        assert said.startswith("another loader or dataset of this process is training run 'cell'")
        assert f"it opened the run at {__file__}:" in said
        assert "close() it first" in said
        assert "takeover=True" in said
        taken = stack.enter_context(make_loader(small, url, "cell", 8, if_exists="restart", takeover=True))
        assert next(taken.epochs()) == 0
        assert len(train_pass(taken)) == 32


def test_a_training_that_was_finished_says_so(url: str, small: str, caplog: pytest.LogCaptureFixture) -> None:
    with make_loader(small, url, "over", 8, epochs=2) as loader:
        for _ in loader.epochs():
            train_pass(loader)
        state = loader.state_dict()
        assert "nothing to train" not in caplog.text
        assert list(loader.epochs()) == []
        assert "nothing to train: all 2 epochs of this loader's run are over" in caplog.text
        with pytest.raises(ConfigError, match=r"all 2 epochs .* are trained: to train on, make a run of more epochs"):
            next(iter(loader))
    with make_loader(small, url, "over", 8, epochs=2) as resumed:
        resumed.load_state_dict(state)
        caplog.clear()
        assert list(resumed.epochs()) == []
        assert caplog.text.count("nothing to train") == 1
    with make_loader(small, url, "over", 8, epochs=2) as anew:
        with pytest.raises(RunConflictError) as refused:
            next(anew.epochs())
        assert "has been trained to its end (all 2 epochs)" in str(refused.value)
        assert 'if_exists="restart" in connection=Connection(…)' in str(refused.value)


def test_a_validation_set_is_never_finished(small: str, caplog: pytest.LogCaptureFixture) -> None:
    with make_loader(small, None, None, 8, policy=None, epochs=None, anneal=True) as loader:
        for _ in range(2):
            assert list(loader.epochs()) == [0]
    assert "nothing to train" not in caplog.text


def test_a_state_of_a_server_that_forgets_is_saved_with_a_word(
    url: str, server: Server, small: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def words() -> list[str]:
        return [record.message for record in caplog.records if "the saved state can" in record.message]

    with make_loader(small, url, "forgets", 16) as loader:
        loader.state_dict()
        assert not words()  # nothing is trained, so nothing can be lost
        for _ in range(3):
            train_pass(loader, 1)
            loader.state_dict()
    (word,) = words()
    assert f"can be resumed as long as the score server at {url} runs" in word
    assert all(record.levelno == logging.WARNING for record in caplog.records if record.message == word)
    caplog.clear()
    for address, folder in ((server.url, None), (None, str(tmp_path / "state"))):
        with make_loader(small, address, "does-not-forget", 16, state_dir=folder) as loader:
            train_pass(loader, 1)
            loader.state_dict()
    assert not words()
