"""Plan files live as long as their owner, and no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from infobatch_client.plans.fetch import fetch_plan
from infobatch_client.plans.files import PlanFiles
from infobatch_client.rpc.client import ScoreClient
from infobatch_server.server import ScoreServer
from infobatch_stream.errors import PlanNotReadyError
from infobatch_stream.plan.bytes import plan_from_buffer
from infobatch_stream.plan.epoch_plan import EpochPlan, unpruned_plan
from infobatch_stream.plan.order_params import OrderParams
from tests.server.calls import caller_on, make_spec

HOLD = """
import sys, time
from infobatch_client.plans.files import PlanFiles
files = PlanFiles()
print(files._folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def plan(epoch: int) -> EpochPlan:
    sizes = np.array([3, 5], np.int64)
    order = OrderParams(lanes=1, stripe=4, window_shards=2)
    return unpruned_plan(run_id=bytes(16), epoch=epoch, seed=0, shard_sizes=sizes, order=order)


def test_a_plan_comes_back_from_its_file() -> None:
    files = PlanFiles()
    path = files.store(plan(3))
    assert plan_from_buffer(Path(path).read_bytes()).plan_id == plan(3).plan_id
    files.close()
    assert not Path(path).exists()


def test_the_last_two_plans_are_kept() -> None:
    files = PlanFiles()
    paths = [files.store(plan(epoch)) for epoch in range(3)]
    files.keep_newest()
    assert [Path(path).exists() for path in paths] == [False, True, True]
    files.close()


def test_a_killed_process_leaves_nothing_behind_for_long(temp: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdin is not None
    folder = Path(holder.stdout.readline().strip())
    PlanFiles().close()
    assert folder.exists()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    PlanFiles().close()
    assert not folder.exists()
    assert list(temp.iterdir()) == []


def test_a_barrier_that_lasts_too_long_is_a_time_out() -> None:
    with ScoreServer() as server:
        channel, caller = caller_on(str(server.grpc_address))
        spec = make_spec("barrier")
        run = caller.create(spec).run_id
        generation = caller.attach(run, world_size=2)
        caller.end(run, generation, 0, caller.plan(run, generation, 0).plan_id)
        client = ScoreClient(str(server.grpc_address))
        with pytest.raises(PlanNotReadyError, match=r"no plan of epoch 1 yet: ranks \[1\] have not ended"):
            fetch_plan(client, run_id=run, spec=spec, generation=generation, epoch=1, plan_id="", timeout_s=1.0)
        client.close()
        channel.close()
