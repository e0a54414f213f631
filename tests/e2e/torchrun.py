"""Starts a script under torchrun, as a user would, and waits for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["Ended", "torchrun"]


class Ended(NamedTuple):
    """How a torchrun ended."""

    code: int
    output: str


def torchrun(script: Path, *args: object, nproc: int, options: tuple[str, ...] = (), timeout_s: float = 240) -> Ended:
    """Runs `script` with `nproc` ranks on this machine. Beyond `timeout_s` all of it is killed, and the test fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(nproc)]
    command += [*(options or ("--standalone",)), str(script), *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=environment
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"still running after {timeout_s} s:\n{output}") from None
    return Ended(process.returncode, output)
