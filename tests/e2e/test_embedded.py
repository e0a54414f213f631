"""The embedded server: shared by those who use its state folder, found only if it is the one, gone when unused."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from infobatch_client.embedded.server import EmbeddedServer
from infobatch_client.embedded.server_files import credentials_of
from infobatch_client.rpc.client import ScoreClient
from infobatch_stream import ConfigError, ServerError
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.suspend import suspend


def nonce(address: str, folder: Path) -> str:
    credentials = credentials_of(json.loads((folder / "endpoint.json").read_text()))
    client = ScoreClient(address, call_timeout_s=5, credentials=credentials)
    answer: str = client.get_server(pb.GetServerRequest()).nonce
    client.close()
    return answer


def wait_until_gone(address: str, timeout_s: float = 60) -> None:
    """Waits until nothing listens there."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.05)
    raise AssertionError(f"a server still listens at {address}")


def test_users_of_one_folder_share_a_server_that_ends_with_the_last(tmp_path: Path) -> None:
    first, second = EmbeddedServer.start(tmp_path), EmbeddedServer.start(tmp_path)
    assert first.address == second.address
    assert os.stat(tmp_path / "endpoint.json").st_mode & 0o777 == 0o600
    first.release()
    assert nonce(second.address, tmp_path)
    second.release()
    wait_until_gone(second.address)


def test_an_endpoint_of_another_program_is_not_trusted(tmp_path: Path) -> None:
    stranger = EmbeddedServer.start(tmp_path / "stranger")
    (tmp_path / "endpoint.json").write_text(
        json.dumps({"grpc": stranger.address, "http": stranger.http_address, "nonce": "not its nonce"})
    )
    own = EmbeddedServer.start(tmp_path)
    assert own.address != stranger.address
    stranger.release()
    own.release()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "server").write_text("a file where the data folder should be")
    with pytest.raises(ServerError, match=r"(?s)did not start; the end of .*server\.log:.*/server"):
        EmbeddedServer.start(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"can't keep its state in .*file/state.*pass state_dir="):
        EmbeddedServer.start(tmp_path / "file" / "state")


def test_a_server_that_was_stopped_and_goes_on_is_still_the_one(tmp_path: Path) -> None:
    first = EmbeddedServer.start(tmp_path)
    pid = json.loads((tmp_path / "endpoint.json").read_text())["pid"]
    suspend(pid)
    resume = threading.Timer(2.5, os.kill, (pid, signal.SIGCONT))
    resume.start()
    second = EmbeddedServer.start(tmp_path)
    resume.join()
    assert second.address == first.address
    assert nonce(first.address, tmp_path)
    second.release()
    first.release()
