"""The database has one connection, whatever a server does: with two, SQLite up to 3.51.2 may lose a WAL."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import numpy as np

from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import make_spec
from tests.server.server_process import Serving, serving


def work(server: Serving, name: str) -> None:
    """All kinds of calls."""
    caller = server.caller
    run_id = bytes(caller.create(make_spec(name)).run_id)
    generation = caller.attach(run_id)
    for epoch in range(2):
        plan = caller.plan(run_id, generation, epoch)
        caller.push_all(run_id, generation, epoch, epoch + 1, np.random.default_rng(epoch).random(1000))
        caller.end(run_id, generation, epoch, plan.plan_id)
    list(caller.stub.ReadScores(pb.ReadScoresRequest(run_id=run_id), timeout=10))
    for path in ("/readyz", "/v1/runs", f"/v1/runs/{name}"):
        assert httpx.get(f"http://{server.http}{path}", trust_env=False).status_code == 200
    caller.stub.DeleteRun(pb.DeleteRunRequest(run_id=bytes(caller.create(make_spec(f"{name}-2")).run_id)), timeout=10)


def descriptors(pid: int) -> list[str]:
    """Names of the database's files that the process has open."""
    folder = Path(f"/proc/{pid}/fd")
    names = [Path(os.readlink(link)).name for link in folder.iterdir() if link.is_symlink()] if folder.is_dir() else []
    return sorted(name for name in names if name.startswith("state.db"))


def test_a_server_opens_its_database_once(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    command = ("tests.server.store.watched_server", str(lines), "--data-dir", str(tmp_path / "data"))
    for number, end in enumerate((signal.SIGKILL, signal.SIGTERM)):
        with serving(*command) as server:
            work(server, f"run{number}")
            assert descriptors(server.process.pid) in ([], ["state.db", "state.db-wal"])
            server.process.send_signal(end)
            server.process.wait(30)
        assert lines.read_text().splitlines() == [f"sqlite3.connect {tmp_path / 'data' / 'state.db'}"] * (number + 1)
