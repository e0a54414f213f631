"""A server that goes away doesn't stop a training: scores wait, and a plan that can't be had is an unpruned epoch."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from infobatch_client.rpc.client import ScoreClient
from infobatch_client.run.options import Timeouts
from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset, RunNotFoundError, SupersededError
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.dataset_arguments import dataset_arguments
from tests.suspend import suspend

HASTY = Timeouts(connect_timeout_s=10, call_timeout_s=1.0, plan_timeout_s=3.0, flush_timeout_s=0.5)


def to_number(sample: dict[str, Any]) -> int:
    return int(sample["txt"])


def make_loader(url: str, shards: str, run: str, **settings: Any) -> InfoBatchLoader:
    asked = {"epochs": 5, "delta": "0.8", "seed": 2, "timeouts": HASTY, **settings}
    return InfoBatchLoader(
        InfoBatchStreamDataset(shards, url=url, run=run, **dataset_arguments(**asked)).map(to_number), 64
    )


def train_epoch(loader: InfoBatchLoader) -> list[int]:
    seen = []
    for numbers in loader:
        loader.update(torch.cos(numbers.double()).float() + 2)
        seen += numbers[loader.weights() > 0].tolist()
    return seen


def update_until_it_raises(loader: InfoBatchLoader, batches: Iterator[torch.Tensor]) -> None:
    for numbers in batches:
        loader.update(torch.ones(len(numbers)))
        loader.flush(2)


def test_scores_of_an_outage_arrive_after_it_and_its_epoch_is_unpruned(own_server: Server, shards: str) -> None:
    with make_loader(own_server.url, shards, "outage") as loader:
        for epoch in loader.epochs():
            if epoch == 2:
                plan = loader.plan
                assert plan.plan_id.startswith("full:")
            seen = train_epoch(loader)
            if epoch == 2:
                assert sorted(seen) == list(range(SAMPLES))
                while not loader.metrics()["push_retries"]:
                    assert not loader.flush(0.1)
                os.kill(own_server.process.pid, signal.SIGCONT)
            if epoch == 1:
                assert len(seen) < SAMPLES
                suspend(own_server.process.pid)
            if epoch == 3:
                assert len(seen) < SAMPLES
        assert loader.flush(20)
        assert loader.metrics()["scores_lost"] == 0
    np.testing.assert_array_equal(
        own_server.scores("outage"), (torch.cos(torch.arange(SAMPLES).double()).float() + 2).numpy()
    )


def test_a_server_that_lost_the_run_stops_the_loop_with_an_error(own_server: Server, shards: str) -> None:
    loader = make_loader(own_server.url, shards, "lost", timeouts=Timeouts())
    epochs = loader.epochs()
    next(epochs)
    batches = iter(loader)
    loader.update(torch.ones(len(next(batches))))
    assert loader.flush(10)
    client = ScoreClient(own_server.url)
    client.delete_run(pb.DeleteRunRequest(run="lost", force=True))
    client.close()
    with pytest.raises(RunNotFoundError, match="run 'lost' was deleted"):
        update_until_it_raises(loader, batches)
    loader.close()


ANEW = """
import os, sys
from infobatch_client.run.options import Timeouts
from tests.e2e.test_outage import make_loader

loader = make_loader(*sys.argv[1:], "anew", timeouts=Timeouts(), takeover=True, if_exists="restart")
next(loader.epochs())
os._exit(0)  # and it holds the run still
"""


def test_a_job_whose_run_another_one_begins_anew_is_told_so(server: Server, shards: str) -> None:
    """Not that the server had lost it."""
    old = make_loader(server.url, shards, "anew", timeouts=Timeouts())
    next(old.epochs())
    batches = iter(old)
    old.update(torch.ones(len(next(batches))))
    assert old.flush(10)
    command = [sys.executable, "-c", ANEW, server.url, shards]
    subprocess.run(command, check=True, timeout=60)
    with pytest.raises(RunNotFoundError) as raised:
        update_until_it_raises(old, batches)
    said = str(raised.value)
    assert re.match(r"run 'anew' was deleted \d+ s ago by a call from 127.0.0.1, and its scores with it", said)
    pid = server.info("anew").pid
    assert pid != os.getpid()
    assert f"a new run of that name was begun by another process on host '{socket.gethostname()}', pid {pid};" in said
    assert "restarts" not in said
    old.close()


def test_a_job_that_was_taken_over_raises_in_its_loop(server: Server, shards: str) -> None:
    loader = make_loader(server.url, shards, "taken", timeouts=Timeouts())
    next(loader.epochs())
    batches = iter(loader)
    loader.update(torch.ones(len(next(batches))))
    assert loader.flush(10)
    client = ScoreClient(server.url)
    request = pb.AttachRunRequest(
        run_id=server.info("taken").run_id, job="other", nonce=bytes(16), host="elsewhere", pid=1, world_size=1
    )
    request.resume.start.epoch = 0
    request.takeover = True
    client.attach_run(request)
    client.close()
    with pytest.raises(SupersededError, match="superseded"):
        update_until_it_raises(loader, batches)
    loader.close()
    assert server.info("taken").stored_scores == 64


def test_an_epoch_that_was_marked_unpruned_has_the_plan_that_anyone_can_compute(server: Server, shards: str) -> None:
    with make_loader(server.url, shards, "marked", timeouts=Timeouts()) as loader:
        epochs = loader.epochs()
        next(epochs)
        train_epoch(loader)
        client = ScoreClient(server.url)
        info = server.info("marked")
        client.mark_unpruned(pb.MarkUnprunedRequest(run_id=info.run_id, generation=info.generation, epoch=1))
        client.close()
        assert next(epochs) == 1
        assert loader.plan.plan_id == f"full:{info.run_id.hex()}:1"
        assert sorted(train_epoch(loader)) == list(range(SAMPLES))
