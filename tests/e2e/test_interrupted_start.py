"""Ctrl-C while a run is joined: the next start, of this process or of another, doesn't wait for the lease."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

from infobatch_client.embedded import server as embedded_server
from infobatch_client.plans.node_plans import NodePlans
from infobatch_client.rpc.client import ScoreClient
from infobatch_client.run import connection, joining
from infobatch_client.run.connection import RunConnection
from infobatch_client.run.plan_source import PlanSource
from infobatch_client.run.score_pusher import ScorePusher
from infobatch_client.run.training_run import TrainingRun
from infobatch_stream import RunBusyError
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.training import make_loader, score, train_pass

QUICK_S = 5.0
CALLS = [(ScoreClient, "get_server"), (ScoreClient, "create_run"), (ScoreClient, "attach_run")]
STEPS = [
    (connection, "join_run"),
    (ScorePusher, "__init__"),
    (ScorePusher, "start"),
    (PlanSource, "__init__"),
    (RunConnection, "enter"),
]
PLANS = [(NodePlans, "get"), (ScoreClient, "get_epoch_plan")]


def pushers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "infobatch-score-pusher"]


@pytest.fixture(autouse=True)
def leave_no_pusher() -> Iterator[None]:
    """One that lives on renews its lease for ever."""
    yield
    assert pushers() == []


@contextmanager
def interrupts(owner: Any, name: str, when: str, times: int = 1) -> Iterator[list[int]]:
    """Real SIGINTs before or after the first calls of a function, whatever thread it is called from."""
    original, left = getattr(owner, name), [times]

    def interrupt() -> None:
        if left[0]:
            left[0] -= 1
            os.kill(os.getpid(), signal.SIGINT)

    @functools.wraps(original)
    def called(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            interrupt()
        result = original(*args, **kwargs)
        if when == "after":
            interrupt()
        return result

    setattr(owner, name, called)
    try:
        yield left
    finally:
        setattr(owner, name, original)


def start(shards: str, url: str | None, run: str, **settings: Any) -> None:
    """Trains one epoch, to its end."""
    with make_loader(shards, url, run, 64, epochs=2, **settings) as loader:
        for _ in loader.epochs():
            train_pass(loader)
            assert loader.flush()
            break


def is_quick_and_right(server: Server, shards: str, run: str, **settings: Any) -> None:
    began_s = time.monotonic()
    start(shards, server.url, run, **settings)
    assert time.monotonic() - began_s < QUICK_S
    assert np.array_equal(server.scores(run), score(torch.arange(SAMPLES)).numpy())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name"), [*CALLS, *STEPS, *PLANS], ids=lambda value: getattr(value, "__name__", value)
)
def test_the_next_start_waits_for_no_lease_of_its_own(
    owner: Any, name: str, when: str, server: Server, shards: str
) -> None:
    run = f"interrupted-{owner.__name__}-{name}-{when}"
    with interrupts(owner, name, when) as left, pytest.raises(KeyboardInterrupt):
        start(shards, server.url, run)
    assert left == [0]
    is_quick_and_right(server, shards, run)


def test_a_second_interrupt_may_end_the_giving_back(server: Server, shards: str) -> None:
    with (
        interrupts(joining.Attachment, "give_back", "before"),
        interrupts(ScoreClient, "attach_run", "after"),
        pytest.raises(KeyboardInterrupt),
    ):
        start(shards, server.url, "interrupted-twice")
    assert server.info("interrupted-twice").pid == os.getpid()  # still held
    is_quick_and_right(server, shards, "interrupted-twice")


def test_an_attach_that_goes_on_after_two_interrupts_is_given_back(server: Server, shards: str) -> None:
    """The call reaches the server while the next start already waits for it."""
    goes_on, original = threading.Event(), ScoreClient.attach_run

    def attach(self: ScoreClient, *args: Any, **kwargs: Any) -> pb.AttachRunResponse:
        assert goes_on.wait(60)
        fresh = ScoreClient(self.address)  # the interrupted start has closed the one before
        return original(fresh, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScoreClient, "attach_run", attach)
        with (
            interrupts(joining.Attachment, "give_back", "before"),
            interrupts(joining, "begin", "after"),
            pytest.raises(KeyboardInterrupt),
        ):
            start(shards, server.url, "interrupted-late")
        goes_on.set()
    is_quick_and_right(server, shards, "interrupted-late")


@pytest.mark.parametrize("settings", [{"if_exists": "restart"}, {"seed": 3, "takeover": True}])
def test_the_next_start_may_ask_for_something_else(settings: dict[str, Any], server: Server, shards: str) -> None:
    run = "-".join(("interrupted", *settings))
    with interrupts(ScoreClient, "attach_run", "after"), pytest.raises(KeyboardInterrupt):
        start(shards, server.url, run)
    is_quick_and_right(server, shards, run, **settings)


@pytest.mark.parametrize("settings", [{}, {"if_exists": "restart"}, {"drops": "remember"}, {"num_workers": 1}])
def test_a_lost_answer_leaves_no_lease_to_the_next_start(settings: dict[str, Any], server: Server, shards: str) -> None:
    """The call attached, its channel was closed, and nobody heard of it; the next one may ask for something else."""
    run = "-".join(("lost", *settings))
    original = ScoreClient.attach_run

    def attach(self: ScoreClient, *args: Any, **kwargs: Any) -> pb.AttachRunResponse:
        original(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGINT)
        raise ConnectionError("lost")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScoreClient, "attach_run", attach)
        with pytest.raises(KeyboardInterrupt):
            start(shards, server.url, run)
    is_quick_and_right(server, shards, run, **settings)


def test_a_lost_answer_takes_no_lease_from_another_loader_of_the_process(server: Server, shards: str) -> None:
    def attach(self: ScoreClient, *args: Any, **kwargs: Any) -> pb.AttachRunResponse:
        os.kill(os.getpid(), signal.SIGINT)
        raise ConnectionError("lost")

    with make_loader(shards, server.url, "lost-beside", 64, epochs=2) as loader:
        next(loader.epochs())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ScoreClient, "attach_run", attach)
            with pytest.raises(KeyboardInterrupt):
                start(shards, server.url, "lost-beside")
        with pytest.raises(RunBusyError, match="another loader or dataset of this process"):
            start(shards, server.url, "lost-beside")
        train_pass(loader)
        assert loader.flush()
    assert np.array_equal(server.scores("lost-beside"), score(torch.arange(SAMPLES)).numpy())


@contextmanager
def interrupt_as_it_returns(function: Any) -> Iterator[None]:
    """KeyboardInterrupt at a function's return, before its caller has what it returns."""

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is function.__code__:
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize(
    "function",
    [RunConnection.__init__, RunConnection._join, joining.join_run, TrainingRun.__init__],
    ids=lambda function: function.__qualname__,
)
def test_a_run_whose_only_reference_an_interrupt_has_lost_is_given_back(
    function: Any, server: Server, shards: str
) -> None:
    run = f"unheld-{function.__qualname__}"
    with interrupt_as_it_returns(function), pytest.raises(KeyboardInterrupt):
        start(shards, server.url, run)
    assert pushers() == []
    assert server.info(run).job == ""  # another process may have it at once
    is_quick_and_right(server, shards, run)


def test_an_interrupt_while_scores_are_sent_at_the_end_leaves_no_lease(server: Server, shards: str) -> None:
    loader = make_loader(shards, server.url, "unsent", 64, epochs=2)
    next(loader.epochs())
    train_pass(loader, 3)
    with interrupts(ScorePusher, "flush", "before"), pytest.raises(KeyboardInterrupt):
        loader.close()
    assert pushers() == []
    assert server.info("unsent").job == ""
    is_quick_and_right(server, shards, "unsent", if_exists="restart")


def test_a_lease_that_two_interrupts_have_kept_is_given_back_by_the_next_start(server: Server, shards: str) -> None:
    loader = make_loader(shards, server.url, "unsent-twice", 64, epochs=2)
    next(loader.epochs())
    with (
        interrupts(RunConnection, "detach", "before"),
        interrupts(ScorePusher, "flush", "before"),
        pytest.raises(KeyboardInterrupt),
    ):
        loader.close()
    assert server.info("unsent-twice").pid == os.getpid()
    is_quick_and_right(server, shards, "unsent-twice")


@pytest.mark.parametrize("name", ["_running", "_launch", "_take"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_embedded_server_starts_after_an_interrupt(name: str, when: str, shards: str, tmp_path: Path) -> None:
    with interrupts(embedded_server, name, when), pytest.raises(KeyboardInterrupt):
        start(shards, None, "embedded", state_dir=str(tmp_path))
    began_s = time.monotonic()
    start(shards, None, "embedded", state_dir=str(tmp_path))
    assert time.monotonic() - began_s < 2 * QUICK_S  # the server's own start included


def test_a_fork_in_between_leaves_the_parents_lease_alone(server: Server, shards: str) -> None:
    with (
        interrupts(joining.Attachment, "give_back", "before"),
        interrupts(ScoreClient, "attach_run", "after"),
        pytest.raises(KeyboardInterrupt),
    ):
        start(shards, server.url, "interrupted-forked")
    child = multiprocessing.get_context("fork").Process(target=_leaves_alone, args=(server.url,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    is_quick_and_right(server, shards, "interrupted-forked")


def _leaves_alone(url: str) -> None:
    assert joining.left_behind(url, "interrupted-forked") == []


PROGRAM = """
import os, signal, sys
from infobatch_client.rpc.client import ScoreClient
from tests.e2e.test_interrupted_start import interrupts, start

with interrupts(ScoreClient, "attach_run", "after"):
    start(sys.argv[1], sys.argv[2], "of-another-process")
"""


def test_a_script_that_ctrl_c_ends_leaves_no_lease_to_the_next(server: Server, shards: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, shards, server.url], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")
    is_quick_and_right(server, shards, "of-another-process")
