"""Certificates on a real server: TLS on both ports, clients' certificates, and new ones without a restart."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from infobatch_server.access.access import Access
from infobatch_server.access.certificates import Certificates
from infobatch_server.process.address import Address
from infobatch_server.server import ScoreServer
from infobatch_stream.errors import ConfigError
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1 import score_service_pb2_grpc as pb_grpc
from tests.certificates import Authority, Signed, needs_openssl

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture(scope="module")
def signed(authority: Authority) -> Signed:
    return authority.sign("server", "DNS:localhost,DNS:*.Example.org,IP:127.0.0.1,IP:::1")


@contextmanager
def serving(cert: Path, key: Path, client_ca: Path | None = None) -> Iterator[ScoreServer]:
    access = Access(certificates=Certificates(cert, key, client_ca))
    with ScoreServer(http=Address("127.0.0.1", 0), access=access) as server:
        yield server


def nonce(server: ScoreServer, authority: Authority, client: Signed | None = None) -> str:
    """What GetServer answers over TLS, on a connection of its own."""
    pair = (None, None) if client is None else (client.key.read_bytes(), client.cert.read_bytes())
    credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes(), *pair)
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(str(server.grpc_address), credentials, options) as channel:
        return str(pb_grpc.ScoreServiceStub(channel).GetServer(pb.GetServerRequest(), timeout=10).nonce)


def web(server: ScoreServer, authority: Authority, client: Signed | None = None) -> httpx.Client:
    context = ssl.create_default_context(cafile=authority.cert)
    if client is not None:
        context.load_cert_chain(client.cert, client.key)
    return httpx.Client(base_url=f"https://{server.http_address}", verify=context, trust_env=False)


def test_grpc_and_http_are_served_over_tls(authority: Authority, signed: Signed) -> None:
    with serving(signed.cert, signed.key) as server:
        assert nonce(server, authority) == server.nonce
        with web(server, authority) as client:
            assert client.get("/v1/server").json()["version"] == server.version


def test_plain_text_is_refused(authority: Authority, signed: Signed) -> None:
    with serving(signed.cert, signed.key) as server:
        with grpc.insecure_channel(str(server.grpc_address), [("grpc.enable_http_proxy", 0)]) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                pb_grpc.ScoreServiceStub(channel).GetServer(pb.GetServerRequest(), timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"http://{server.http_address}/v1/server", trust_env=False)


def test_a_client_needs_a_certificate_of_the_authority_that_is_named(
    authority: Authority, signed: Signed, tmp_path: Path
) -> None:
    stranger, expired = Authority(tmp_path / "other").sign("client"), authority.sign("old-client", expired=True)
    with serving(signed.cert, signed.key, authority.cert) as server:
        for refused in (None, stranger, expired):
            with pytest.raises(grpc.RpcError):
                nonce(server, authority, refused)
            with web(server, authority, refused) as client, pytest.raises(httpx.HTTPError):
                client.get("/healthz")
        known = authority.sign("client")
        assert nonce(server, authority, known) == server.nonce
        with web(server, authority, known) as client:
            assert client.get("/healthz").status_code == 200


def test_a_new_certificate_is_used_from_the_next_connection(authority: Authority, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def use(signed: Signed) -> None:
        shutil.copy(signed.key, key)
        shutil.copy(signed.cert, cert)

    def names_now(address: Address) -> set[str]:
        context = ssl.create_default_context(cafile=authority.cert)
        with (
            socket.create_connection((address.host, address.port), 10) as connection,
            context.wrap_socket(connection, server_hostname="127.0.0.1") as secure,
        ):
            found = secure.getpeercert()
        assert found is not None
        return {value for _, value in found["subjectAltName"]}  # type: ignore[misc]

    use(authority.sign("first", "DNS:first,IP:127.0.0.1"))
    with serving(cert, key) as server:
        assert server.http_address is not None
        for address in (server.grpc_address, server.http_address):
            assert names_now(address) == {"first", "127.0.0.1"}
        use(authority.sign("second", "DNS:second,IP:127.0.0.1"))
        for address in (server.grpc_address, server.http_address):
            assert names_now(address) == {"second", "127.0.0.1"}
        with web(server, authority) as client:
            assert client.get("/healthz", headers={"Host": "second"}).status_code == 200
            assert client.get("/healthz", headers={"Host": "first"}).status_code == 400


def test_an_invalid_change_leaves_the_certificate_as_it_was(
    authority: Authority, signed: Signed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(signed.cert, cert)
    shutil.copy(signed.key, key)
    with serving(cert, key) as server:
        shutil.copy(authority.sign("another").cert, cert)  # its key comes later
        assert nonce(server, authority) == server.nonce
        with web(server, authority) as client:
            assert client.get("/healthz").status_code == 200
        assert caplog.text.count("stays in use: --tls-cert") == 1
        key.unlink()
        assert nonce(server, authority) == server.nonce


def test_an_expired_certificate_is_refused_at_the_start(authority: Authority) -> None:
    expired = authority.sign("expired", expired=True)
    with pytest.raises(ConfigError, match=r"no client will trust it: certificate has expired"):
        Certificates(expired.cert, expired.key)


def test_the_names_are_those_of_the_certificate(signed: Signed) -> None:
    assert Certificates(signed.cert, signed.key).names == ("localhost", "*.example.org", "127.0.0.1", "0:0:0:0:0:0:0:1")


def test_files_that_are_no_certificate_and_key_are_named(authority: Authority, signed: Signed, tmp_path: Path) -> None:
    other = authority.sign("other")
    (tmp_path / "words").write_text("no PEM")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", signed.key, "-out", locked, "-aes256", "-passout", "pass:long enough"],
        check=True,
        capture_output=True,
    )
    for cert, key in (
        (signed.cert, other.key),
        (signed.cert, tmp_path / "words"),
        (tmp_path / "words", signed.key),
        (signed.cert, locked),
    ):
        with pytest.raises(ConfigError, match=f"--tls-cert {cert} and --tls-key {key} must be"):
            Certificates(cert, key)
    with pytest.raises(ConfigError, match=f"--tls-key {tmp_path}/none: No such file"):
        Certificates(signed.cert, tmp_path / "none")
    with pytest.raises(ConfigError, match=f"--tls-client-ca {tmp_path}/words must hold certificates"):
        Certificates(signed.cert, signed.key, tmp_path / "words")


def test_a_key_that_everyone_can_read_is_warned_of(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    signed = authority.sign("open")
    signed.key.chmod(0o644)
    Certificates(signed.cert, signed.key)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "chmod 600" in caplog.text
