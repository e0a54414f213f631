"""HOST:PORT, as `--grpc` and `--http` take it."""

from __future__ import annotations

import pytest

from infobatch_server.process.address import Address
from infobatch_stream.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:8080", "::1", 8080), ("node:1", "node", 1)],
)
def test_addresses(text: str, host: str, port: int) -> None:
    address = Address.parse(text, "--grpc")
    assert (address.host, address.port) == (host, port)
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "8080", ":8080", "host:", "host:x", "host:65536", "::1:80", "host:٣"])
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--grpc must be HOST:PORT"):
        Address.parse(text, "--grpc")


@pytest.mark.parametrize(
    ("host", "loopback"), [("localhost", True), ("127.8.8.8", True), ("::1", True), ("0.0.0.0", False), ("a", False)]
)
def test_loopback(host: str, loopback: bool) -> None:
    assert Address(host, 0).is_loopback == loopback
