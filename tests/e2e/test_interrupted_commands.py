"""Ctrl-C in each command, wherever it is: the status of an interrupt, and no traceback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infobatch_stream.cli import COMMANDS


@pytest.fixture(scope="module")
def silent() -> Iterator[socket.socket]:
    """A server that takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        yield listening


@contextmanager
def command(arguments: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, as a terminal starts it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "infobatch_stream", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Ctrl-C in a terminal reaches all of the group; the status and what is on stderr from here on."""
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    return process.returncode, told


def wait_until(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not happened():
        assert process.poll() is None
        assert time.monotonic() < deadline_s


@pytest.mark.parametrize(
    "arguments", [["runs", "--http"], ["stats", "a-run", "--http"], ["forget-drops", "a-run", "--grpc"]]
)
def test_a_command_that_waits_for_a_server(arguments: list[str], silent: socket.socket, tmp_path: Path) -> None:
    host, port = silent.getsockname()
    with command([*arguments, f"{host}:{port}"], tmp_path) as process:
        connection, _ = silent.accept()
        with connection:
            assert interrupt(process) == (130, "")


def test_an_index_that_is_half_written(shards: str, tmp_path: Path) -> None:
    first = next(path for path in sorted(Path(shards).iterdir()) if path.suffix == ".tar")
    for number in range(500):
        shutil.copy(first, tmp_path / f"{number:04}.tar")
    with command(["index", "."], tmp_path) as process:
        wait_until(process, lambda: any(tmp_path.glob("*.arrow")))
        status, told = interrupt(process)
    assert status == 130
    assert "Traceback" not in told
    assert 0 < len(list(tmp_path.glob("*.arrow"))) < 500
    assert [path for path in tmp_path.iterdir() if path.suffix not in (".tar", ".arrow")] == []
    again = subprocess.run([*ME, "index", "--quiet", "."], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (again.returncode, len(list(tmp_path.glob("*.arrow")))) == (0, 500)


def test_a_server_that_serves(tmp_path: Path) -> None:
    serve = ["serve", "--data-dir", "data", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    with command(serve, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("infobatch score server: grpc ")
        status, told = interrupt(process)
    assert status == 0
    assert "Traceback" not in told


ME = [sys.executable, "-m", "infobatch_stream"]
IMPORTS = {
    "demo": (["demo", "--epochs", "2"], "_multiarray_umath"),
    "index": (["index", "."], "_multiarray_umath"),
    "serve": (["serve", "--data-dir", "data"], "_multiarray_umath"),
    "forget-drops": (["forget-drops", "a-run", "--grpc", "127.0.0.1:9"], "cygrpc"),
}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the libraries of a process in /proc")
@pytest.mark.parametrize("name", IMPORTS)
def test_a_command_that_imports_its_packages(name: str, tmp_path: Path) -> None:
    """numpy's import takes KeyboardInterrupt for a module that can't be loaded."""
    arguments, library = IMPORTS[name]
    with command(arguments, tmp_path) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        wait_until(process, lambda: library in maps.read_text())
        assert interrupt(process) == (130, "")


def test_every_command_is_interrupted_here_or_in_the_test_of_its_ranks() -> None:
    assert set(COMMANDS) == {"runs", "stats", "forget-drops", "index", "serve", "demo"}
