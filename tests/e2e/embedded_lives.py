"""Programs that use an embedded server, as processes that tests start and end, and what /proc says of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HOLD = """
import sys, time
from infobatch_client.embedded.server import EmbeddedServer
server = EmbeddedServer.start(sys.argv[1])
print(server.pid, server.address, flush=True)
sys.stdin.read()
"""


class Program:
    """A Python program with a group of its own, as a shell would start it.

    Args:
        text: its source.
        arguments: for sys.argv.
    """

    def __init__(self, text: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", text, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def line(self) -> str:
        """Its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, number: signal.Signals) -> None:
        """A signal for it and for whatever it started in its group."""
        os.killpg(self.process.pid, number)

    def end(self) -> int:
        """Lets it end by itself; its exit status."""
        self.process.communicate(timeout=60)
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL, for it alone."""
        self.process.kill()
        self.process.communicate(timeout=60)


def wait_until(happened: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Waits for something that another process does."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def servers_of(folder: Path) -> list[int]:
    """The processes that serve a state folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        if os.fsencode(folder / "users.lock") in arguments:
            found.append(int(path.parent.name))
    return found


def listens(address: str) -> bool:
    """Whether anything listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def wait_until_nothing_is_left(folder: Path, *addresses: str) -> None:
    """Waits until no server process of a folder is there, and no port of theirs."""
    wait_until(lambda: not servers_of(folder), f"a server of {folder} still runs")
    assert [address for address in addresses if listens(address)] == []
