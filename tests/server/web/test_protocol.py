"""HTTP connections that are slow or idle: others are answered, and the slow ones are cut off."""

from __future__ import annotations

import socket

import httpx
import pytest
from fastapi import FastAPI

from infobatch_server.process.address import Address
from infobatch_server.web.server import HttpServer, bind


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HT",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\na",
    ],
    ids=["idle", "request line", "headers", "body"],
)
def test_slow_connections_are_cut_off_and_do_not_stop_others(sent: bytes) -> None:
    app = FastAPI()
    app.get("/healthz")(lambda: "ok")
    server = HttpServer(app, bind(Address("127.0.0.1", 0)), request_s=1.0, max_connections=20)
    server.start()
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(60)]
    try:
        for connection in slow:
            connection.sendall(sent)
        answer = httpx.get(f"http://127.0.0.1:{server.port}/healthz", timeout=10, trust_env=False)
        assert answer.status_code == 200
        for connection in slow:
            try:
                while connection.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    finally:
        for connection in slow:
            connection.close()
        assert server.stop(10)
