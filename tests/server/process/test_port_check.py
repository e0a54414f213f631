"""Addresses at which a server can't listen, with real sockets."""

from __future__ import annotations

import socket

import pytest

from infobatch_server.process.address import Address
from infobatch_server.process.port_check import check_can_listen
from infobatch_stream.errors import ServerError


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_taken_port_is_refused_under_each_name_of_the_machine(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"can't listen on --grpc {host}:{port}: Address already in use; choose"):
            check_can_listen(Address(host, port), "--grpc")
    check_can_listen(Address(host, port), "--grpc")


@pytest.mark.parametrize(
    ("host", "reason"),
    [("192.0.2.1", "Cannot assign requested address"), ("nowhere.invalid", "(Name|No address|Temporary failure)")],
)
def test_a_host_of_elsewhere_is_refused(host: str, reason: str) -> None:
    with pytest.raises(ServerError, match=f"can't listen on --grpc {host}:0: {reason}"):
        check_can_listen(Address(host, 0), "--grpc")


def test_port_0_is_free() -> None:
    check_can_listen(Address("127.0.0.1", 0), "--grpc")
