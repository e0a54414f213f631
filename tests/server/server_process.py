"""A server as a process of its own, on free ports, and a caller on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.server.calls import Caller, caller_on

__all__ = ["Serving", "serving"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Serving:
    """A server that answers.

    Args:
        process: its process.
        caller: on its gRPC address.
        http: its HTTP address.
    """

    process: subprocess.Popen[str]
    caller: Caller
    http: str


@contextmanager
def serving(*command: str) -> Iterator[Serving]:
    """Starts a module that serves as `infobatch serve` does, with its arguments; kills it at the end."""
    free = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-m", *command, *free], stdout=pipe, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            grpc, http = process.stdout.readline().split("grpc ")[1].split(", http ")
            channel, caller = caller_on(grpc)
            with channel:
                yield Serving(process, caller, http.strip())
        finally:
            process.kill()
