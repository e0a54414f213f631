"""A real score server in a process of its own, and small real shards."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import active_children
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data.dataloader import _BaseDataLoaderIter

from infobatch_client.rpc.client import ScoreClient
from infobatch_client.rpc.rest import get_json, run_path
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.e2e.rank_processes import kill_what_is_left
from tests.e2e.run_names import RunNames
from tests.shards import write_tar

SAMPLES = 1009  # prime: divisible by no batch, worker or shard number


@dataclass(frozen=True)
class Server:
    """Where the tests' score server is."""

    url: str
    http: str
    process: subprocess.Popen[bytes]

    def scores(self, run: str) -> np.ndarray:
        """The run's scores, float32 (N,), NaN where never scored."""
        client = ScoreClient(self.url)
        parts = [part.scores for part in client.read_scores(pb.ReadScoresRequest(run=run))]
        client.close()
        return np.frombuffer(b"".join(parts), "<f4")

    def stats(self, run: str) -> dict[str, Any]:
        """The run as REST shows it."""
        found: dict[str, Any] = get_json(self.http, run_path(run))
        return found

    def info(self, run: str) -> pb.RunInfo:
        """The run as GetRun gives it."""
        client = ScoreClient(self.url)
        answer = client.get_run(pb.GetRunRequest(run=run)).run
        client.close()
        return answer

    def runs(self) -> list[pb.RunInfo]:
        """Every run as ListRuns gives it."""
        client = ScoreClient(self.url)
        answer = list(client.list_runs(pb.ListRunsRequest()).runs)
        client.close()
        return answer


@pytest.fixture(autouse=True)
def leave_no_rank() -> Iterator[None]:
    """Ranks that a test has started end with it."""
    yield
    kill_what_is_left()


@pytest.fixture(autouse=True)
def leave_no_worker() -> Iterator[None]:
    """Workers of torch's DataLoaders end with the test that started them.

    An error's traceback and its iterator may hold each other. Such an iterator is left to the garbage collector, in
    which torch waits 5 s for each of its workers in vain: in the middle of any later test, which then times out.
    """
    yield
    if any(not isinstance(child, ForkServerProcess) for child in active_children()):
        for found in gc.get_objects():
            if issubclass(type(found), _BaseDataLoaderIter) and found._num_workers:
                found._shutdown_workers()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, run_names: RunNames) -> Iterator[Server]:
    """One for all tests; runs keep them apart."""
    for server in serve(tmp_path_factory.mktemp("server")):
        run_names.url = server.url
        yield server
        run_names.url = None


@pytest.fixture(scope="session")
def run_names(tmp_path_factory: pytest.TempPathFactory) -> RunNames:
    """Which module has which runs, the same for all processes of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    return RunNames(folder / "run-names")


@pytest.fixture(autouse=True, scope="module")
def keep_to_own_runs(request: pytest.FixtureRequest, run_names: RunNames) -> Iterator[None]:
    """A module that uses a run of another's on the shared server fails, in whichever order they come."""
    yield
    run_names.claim(Path(request.node.nodeid).name)


@pytest.fixture
def run(request: pytest.FixtureRequest) -> str:
    """A name that only this test has for its run, after its node id."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.nodeid.partition("test_")[2].lower()).strip("-")


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """One for a single test, which may stop and kill it."""
    yield from serve(tmp_path / "server")


def serve(folder: Path) -> Iterator[Server]:
    """A server process that keeps its files in `folder`, ended when the iterator goes on."""
    folder.mkdir(exist_ok=True)
    endpoint = folder / "endpoint.json"
    command = [sys.executable, "-m", "infobatch_stream", "serve", "--data-dir", str(folder / "data")]
    command += ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--endpoint-file", str(endpoint)]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ)
    try:
        deadline = time.monotonic() + 60
        while not endpoint.exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.02)
        found = json.loads(endpoint.read_text())
        yield Server(found["grpc"], found["http"], process)
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)  # where a test has failed that stopped it
            process.terminate()
            assert process.wait(60) == 0, (folder / "log").read_text()
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """SAMPLES samples in shards of odd sizes; sample i has the text "i" and a class i mod 7."""
    folder = tmp_path_factory.mktemp("shards")
    return str(make_shards(folder, [100, 1, 307, 250, 351]))


def make_shards(folder: Path, sizes: list[int]) -> Path:
    """Shards of the given sizes; sample i has `txt` = "i" and `cls` = i mod 7."""
    first = 0
    for number, size in enumerate(sizes):
        files = []
        for sample in range(first, first + size):
            files.append((f"{sample:06d}.txt", str(sample).encode()))
            files.append((f"{sample:06d}.cls", str(sample % 7).encode()))
        write_tar(folder / f"part-{number:03d}.tar", files)
        first += size
    return folder
