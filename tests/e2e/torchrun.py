"""Starts a script under torchrun, as a user would, and waits for it.

`torchrun` runs torchrun's own agent, in a process that has imported torch before, and its ranks are forks of that: no
process spends seconds on imports. `torchrun_command` is the command itself.
"""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from torch.distributed import run
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.e2e.rank_processes import start_process

__all__ = ["Ended", "free_port", "torchrun", "torchrun_command"]

STANDALONE = ("--standalone",)


class Ended(NamedTuple):
    """How a torchrun ended."""

    code: int
    output: str


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def torchrun(
    script: Path,
    *args: object,
    nproc: int,
    options: tuple[str, ...] = STANDALONE,
    imports: tuple[str, ...] = (),
    timeout_s: float = 240,
) -> Ended:
    """Runs `script` with `nproc` ranks on this machine, in this folder. Beyond `timeout_s`, the test fails.

    Args:
        imports: modules that the agent imports, so that not every rank has to.
    """
    with tempfile.NamedTemporaryFile(prefix="torchrun-") as output:
        arguments = [*_options(nproc, options), str(script), *map(str, args)]
        agent = start_process(_agent, arguments, imports, output.name, os.getcwd(), _environment())
        try:
            agent.join(timeout_s)
        except AssertionError:
            os.killpg(agent.process.pid or 0, signal.SIGKILL)
            raise AssertionError(f"still running after {timeout_s} s:\n{Path(output.name).read_text()}") from None
        code = agent.process.exitcode
        assert code is not None
        return Ended(code, Path(output.name).read_text())


def torchrun_command(script: Path, *args: object, nproc: int, options: tuple[str, ...] = STANDALONE) -> Ended:
    """As `torchrun`, by the command."""
    command = [sys.executable, "-m", "torch.distributed.run", *_options(nproc, options), str(script), *map(str, args)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=_environment()
    )
    try:
        output, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"still running after 240 s:\n{output}") from None
    return Ended(process.returncode, output)


def _options(nproc: int, options: tuple[str, ...]) -> list[str]:
    return ["--nproc-per-node", str(nproc), *options]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def _agent(
    arguments: list[str], imports: tuple[str, ...], output: str, folder: str, environment: Mapping[str, str]
) -> None:
    """What the command does, but that its ranks are forks which call `_rank`."""
    os.setsid()
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for name in imports:
        import_module(name)
    run.elastic_launch = _launch
    run.main(arguments)


def _launch(config: LaunchConfig, entrypoint: object) -> Callable[..., Any]:
    """In the place of torchrun's `elastic_launch`: what it would start by python -u is a fork."""
    config.start_method = "fork"
    return lambda unbuffered, *script: elastic_launch(config, _rank)(*script)


def _rank(script: str, *arguments: str) -> None:
    """`python script …`, from its first line to the handlers of its exit."""
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).resolve().parent))
    try:
        runpy.run_path(script, run_name="__main__")
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()
