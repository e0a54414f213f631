"""A real server on a free port for each test, and a clock that only tests move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from infobatch_server.server import ScoreServer
from tests.server.calls import Caller, caller_on, make_spec


@dataclass
class Clock:
    """A clock in seconds that only tests move."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Iterator[ScoreServer]:
    with ScoreServer(clock=clock) as server:
        yield server


@pytest.fixture
def caller(server: ScoreServer) -> Iterator[Caller]:
    channel, caller = caller_on(str(server.grpc_address))
    with channel:
        yield caller


@pytest.fixture
def run(caller: Caller) -> bytes:
    """A run of 1,000 samples in 10 shards."""
    return bytes(caller.create(make_spec()).run_id)
