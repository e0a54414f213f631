"""The launcher's view of this process: its job and attempt, and its node."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infobatch_stream.errors import ConfigError

__all__ = ["Job", "node_name", "started_ranks", "this_job"]


@dataclass(frozen=True)
class Job:
    """A training job; the server uses it to tell a restart from another job.

    Args:
        name: stable over the job's attempts; "none" without a launcher.
        attempt: its n-th start, from 0.
    """

    name: str = "none"
    attempt: int = 0


def this_job(environ: Mapping[str, str] = os.environ) -> Job:
    """The job and attempt that torchrun or Slurm gave this process.

    torchrun's workers are children of one agent over all of its restarts, and that agent names the job: a run id
    alone may be "none", or copied from another job's command line. A Slurm job keeps its id when it is requeued.
    """
    if (run_id := environ.get("TORCHELASTIC_RUN_ID")) is not None:
        # A requeued Slurm job begins a new count of torchrun's restarts.
        attempt = _number(environ, "SLURM_RESTART_COUNT") << 32 | _number(environ, "TORCHELASTIC_RESTART_COUNT")
        agent = f"agent-{socket.gethostname()}-{os.getppid()}-{_started(os.getppid())}"
        return Job(f"torchrun:{run_id[:100]}:{agent}"[:255], attempt)
    if (job_id := environ.get("SLURM_JOB_ID")) and "SLURM_PROCID" in environ:
        cluster = environ.get("SLURM_CLUSTER_NAME", "")
        return Job(f"slurm:{cluster}:{job_id}", _number(environ, "SLURM_RESTART_COUNT"))
    return Job()


def started_ranks(environ: Mapping[str, str] = os.environ) -> int:
    """Number of ranks that a launcher has started: torchrun and the like, or srun; 1 without a launcher."""
    if {"RANK", "WORLD_SIZE"} <= environ.keys():
        return max(1, _number(environ, "WORLD_SIZE"))
    return max(1, _number(environ, "SLURM_STEP_NUM_TASKS")) if "SLURM_PROCID" in environ else 1


def node_name(environ: Mapping[str, str] = os.environ) -> str:
    """A name that exactly the processes share that have one machine and one folder for temporary files.

    Processes that a launcher assigns to different nodes have different names, even on one machine.
    """
    folder = Path(tempfile.gettempdir()).stat()
    launcher_node = environ.get("GROUP_RANK") or environ.get("SLURM_NODEID") or ""
    return "/".join([socket.gethostname(), _boot_id(), f"{folder.st_dev}:{folder.st_ino}", launcher_node])


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name) or "0"
    if not text.isdecimal():
        raise ConfigError(f"the launcher's {name}={text!r} is no whole number")
    return int(text)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """A process's start time in clock ticks since boot, which tells it from a later process with the same id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
