"""Runs the docs' shell blocks. A few commands are checked instead of run; the table says which, and how."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.docs.blocks import ROOT

__all__ = ["CHECKED_ONLY", "commands_of", "environment", "run_commands", "working_in"]


def check_make(command: str, folder: Path) -> None:
    """`make` knows the target; what the targets do has tests of its own."""
    call(command.replace("make ", "make --dry-run ", 1), ROOT)


def check_install(command: str, folder: Path) -> None:
    """Every extra that is named exists."""
    text = (ROOT / "pyproject.toml").read_text()
    for extras in re.findall(r"\[([a-z,]+)\]", command):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", text, re.M), f"no extra {extra!r}: {command}"


def check_compose(command: str, folder: Path) -> None:
    """docker-compose.yml has the service."""
    text = (ROOT / "docker-compose.yml").read_text()
    assert re.search(rf"^services:\n(  .*\n|\n)*?  {command.split()[-1]}:\n", text, re.M), command


def check_benchmark(command: str, folder: Path) -> None:
    """The script is there, and has the options."""
    script, *words = command.removeprefix("python ").split()
    text = (ROOT / script).read_text()
    for option in (word for word in words if word.startswith("--")):
        assert f'add_argument("{option}"' in text, command


CHECKED_ONLY = {
    r"make [a-z-]+( [A-Z_]+=.*)?$": check_make,
    r"pip install ": check_install,
    r"docker compose up (-d )?[a-z-]+$": check_compose,
    r"python benchmarks/[a-z_]+\.py": check_benchmark,
}


def commands_of(code: str) -> list[str]:
    """A block's commands, without comments; continued lines are joined."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines) if line]


def run_commands(code: str, folder: Path) -> None:
    """Runs each command in the folder; it must succeed. A server that a block starts ends with the block."""
    with tempfile.TemporaryDirectory() as logs:
        servers: list[subprocess.Popen[bytes]] = []
        try:
            for command in commands_of(code):
                check = next((check for rule, check in CHECKED_ONLY.items() if re.match(rule, command)), None)
                if check is not None:
                    check(command, folder)
                elif command.startswith("infobatch serve"):
                    servers.append(start_server(command.removesuffix("&"), folder, Path(logs) / str(len(servers))))
                else:
                    call(command, folder)
        finally:
            for server in servers:
                server.send_signal(signal.SIGTERM)
                server.wait(20)


def call(command: str, folder: Path) -> None:
    """Runs one command line by bash."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"


def start_server(command: str, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Starts `infobatch serve` and waits until it says where it serves."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=folder, env=environment(), stdout=output, stderr=output
        )
    deadline = time.monotonic() + 60
    while "infobatch score server: " not in (text := log.read_text()):
        assert process.poll() is None, f"$ {command}\n{text}"
        assert time.monotonic() < deadline, f"$ {command}\n{text}"
        time.sleep(0.02)
    return process


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The process's working folder."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def environment() -> dict[str, str]:
    """This interpreter's commands come first, and an `infobatch` that is this checkout's."""
    paths = [str(ROOT), str(ROOT / "server"), str(ROOT / "client"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
