"""The first contact: words while the server keeps silent, and an error at once where none can ever answer."""

from __future__ import annotations

import datetime
import http.server
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest

from infobatch_client.rpc.client import ScoreClient
from infobatch_server.process.address import Address
from infobatch_server.server import ScoreServer
from infobatch_stream.errors import ConfigError, InfoBatchError, ServerError, ServerUnreachableError

AT_ONCE_S = 10.0  # of 60; a busy machine may take its time


def contact(address: str, timeout_s: float = 60.0) -> tuple[InfoBatchError, float]:
    """How the first contact fails, and after how many seconds."""
    started_s = time.monotonic()
    with closing(ScoreClient(address)) as client, pytest.raises(InfoBatchError) as failed:
        client.wait_until_up(timeout_s)
    return failed.value, time.monotonic() - started_s


@contextmanager
def program(greeting: bytes | None) -> Iterator[str]:
    """A port that greets each connection and closes it; with None it keeps silent."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                held.append(connection)
                if greeting is not None:
                    connection.sendall(greeting)
                    held.pop().close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        for connection in held:
            connection.close()


class Quiet(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    """A web server that has nothing to do with this project."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_port_of_another_protocol_is_an_error_at_once(web: str) -> None:
    error, seconds = contact(web)
    assert type(error) is ConfigError
    assert "speaks HTTP/1, not gRPC" in str(error)
    assert f"url='{web}'" in str(error)
    assert seconds < AT_ONCE_S
    with program(b"SSH-2.0-OpenSSH_9.6\r\n") as address:
        error, seconds = contact(address)
    assert type(error) is ConfigError
    assert "another program answers there; its first bytes are b'SSH-2.0-" in str(error)
    assert seconds < AT_ONCE_S


def test_the_rest_port_names_the_grpc_port() -> None:
    with ScoreServer(http=Address("127.0.0.1", 0)) as server:
        error, seconds = contact(str(server.http_address))
    assert type(error) is ConfigError
    assert (
        f"the REST address of a score server; give the one of its gRPC port, such as url='{server.grpc_address}'"
        in (str(error))
    )
    assert seconds < AT_ONCE_S


def certificate(folder: Path) -> tuple[bytes, bytes]:
    """A key and a certificate of its own."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(folder / "key"), "-out", str(folder / "crt"), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return (folder / "key").read_bytes(), (folder / "crt").read_bytes()


def test_a_port_with_tls_is_an_error_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([certificate(tmp_path)]))
        server.start()
        error, seconds = contact(f"127.0.0.1:{port}")
        server.stop(None).wait(10)
    assert type(error) is ConfigError
    assert "it speaks TLS" in str(error)
    assert seconds < AT_ONCE_S


def test_another_grpc_server_is_an_error_at_once() -> None:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        error, seconds = contact(address)
        server.stop(None).wait(10)
    assert type(error) is ServerError
    assert f"GetServer at {address}: no such call there: it is no score server" in str(error)
    assert seconds < AT_ONCE_S


def test_a_name_that_no_host_can_have_is_an_error_at_once() -> None:
    error, seconds = contact("a" * 70 + ".example:50051")
    assert type(error) is ConfigError
    assert "is no valid name of a host" in str(error)
    assert seconds < AT_ONCE_S


@pytest.mark.parametrize(
    ("place", "reason"),
    [("nobody", "connection refused"), ("name", "the name 'no.invalid' is not known here"), ("silent", "keeps silent")],
)
def test_a_server_that_may_come_up_is_waited_for_with_a_word(
    place: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with program(None) as silent:
        error, seconds = contact({"nobody": "127.0.0.1:9", "name": "no.invalid:50051", "silent": silent}[place], 2.5)
    assert type(error) is ServerUnreachableError
    assert reason in str(error)
    assert "within 2.5 s" in str(error)
    assert seconds >= 2.5
    words = [record for record in caplog.records if "no answer from" in record.message]
    assert len(words) == 1
    assert words[0].levelno == logging.WARNING
    assert reason in words[0].message
    assert "trying for another " in words[0].message
    first_s = words[0].created - (datetime.datetime.now().timestamp() - seconds)
    assert 1 < first_s < seconds


def test_a_server_that_comes_up_is_found(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = []
    with closing(ScoreClient(f"127.0.0.1:{port}")) as client:
        waiting = threading.Thread(target=lambda: found.append(client.wait_until_up(60)))
        waiting.start()
        with ScoreServer(Address("127.0.0.1", port)) as server:
            waiting.join(60)
            assert [answer.nonce for answer in found] == [server.nonce]


def test_a_port_with_http_1_and_2_is_no_error(web: str) -> None:
    """As a proxy in front of a score server that is not up yet: it answers as HTTP/2 does, with settings."""
    settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    with program(settings) as address:
        error, _ = contact(address, 0.3)
    assert type(error) is ServerUnreachableError


def test_a_tls_server_that_asks_for_a_certificate_is_known_too(tmp_path: Path) -> None:
    key, chain = certificate(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        credentials = grpc.ssl_server_credentials([(key, chain)], chain, require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        error, _ = contact(f"127.0.0.1:{port}")
        server.stop(None).wait(10)
    assert "it speaks TLS" in str(error)
