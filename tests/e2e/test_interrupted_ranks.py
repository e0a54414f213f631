"""Ctrl-C under torchrun: all ranks end within seconds, and the next start has the run at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Server
from tests.e2e.torchrun import torchrun

JOB = Path(__file__).with_name("torchrun_endless_job.py")
SECONDS = 15.0  # torchrun kills ranks that are left after 30


def interrupted(server: Server, run: str, *args: str) -> str:
    """Starts the job, presses Ctrl-C as it trains, and returns what it wrote from there on."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(JOB), *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=environment
    )
    try:
        deadline_s = time.monotonic() + 120
        while not any(info.spec.run == run and info.stored_scores > 200 for info in server.runs()):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        began_s = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        output, _ = process.communicate(timeout=60)
        assert time.monotonic() - began_s < SECONDS, output
        return output
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.mark.long
@pytest.mark.parametrize("num_workers", [0, 2])
def test_ctrl_c_ends_all_ranks_and_leaves_the_run_free(num_workers: int, server: Server, shards: str) -> None:
    run = f"ctrl-c-{num_workers}"
    output = interrupted(server, run, shards, server.url, run, str(num_workers))
    for rank in range(2):
        assert output.count(f"[rank{rank}]: Traceback") <= 1, output  # the loop's own KeyboardInterrupt
    for unwanted in ("infobatch_stream.errors", "Exception ignored", "DataLoader worker"):
        assert unwanted not in output
    assert server.info(run).job == ""  # no lease to wait for
    ended = torchrun(JOB, shards, server.url, run, num_workers, "once", nproc=2)
    assert ended.code == 0, ended.output
    assert "waiting up to" not in ended.output
