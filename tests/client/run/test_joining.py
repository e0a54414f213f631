"""A run is joined as soon as the server takes the call, whatever else it has to do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from infobatch_client.rpc.client import ScoreClient, retry_until
from infobatch_stream.errors import ServerBusyError, ServerUnreachableError
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.e2e.conftest import make_shards
from tests.e2e.training import make_loader
from tests.server.rpc.test_idle_calls import KINDS, serving


def test_a_server_full_of_idle_streams_is_asked_again_when_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, refused_at_s, asked_at_s = ScoreClient.create_run, list[float](), list[float]()
    with serving(stream_threads=1, max_queued_streams=1) as (_, idle, wait_for):
        held = [KINDS["CreateRun"](idle) for _ in range(2)]
        wait_for(2)

        def create(self: ScoreClient, *args: Any, **kwargs: Any) -> pb.CreateRunResponse:
            asked_at_s.append(time.monotonic())
            try:
                return original(self, *args, **kwargs)
            except ServerBusyError:
                refused_at_s.append(time.monotonic())
                for call in held:
                    call.cancel()
                raise

        monkeypatch.setattr(ScoreClient, "create_run", create)
        address: Any = idle
        address = address._channel.target().decode().removeprefix("dns:///")
        with make_loader(str(make_shards(tmp_path, [70, 30])), address, "patient", 64) as loader:
            assert next(iter(loader.epochs())) == 0
    assert len(refused_at_s) == 1
    assert asked_at_s[1] - refused_at_s[0] >= 1.0  # the server's retry_after_s


def test_another_error_is_not_tried_again() -> None:
    """A CreateRun whose answer was lost may have created the run."""
    calls = []

    def attempt(_: float) -> None:
        calls.append(1)
        raise ServerUnreachableError("gone")

    with pytest.raises(ServerUnreachableError):
        retry_until(attempt, 5.0, on=ServerBusyError)
    assert len(calls) == 1
