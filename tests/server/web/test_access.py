"""Tokens and host names of the REST endpoint, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infobatch_server.access.access import Access
from infobatch_server.access.tokens import Tokens
from infobatch_server.process.address import Address
from infobatch_server.server import ScoreServer

TRAIN, READ = "train-" + "t" * 30, "read-" + "r" * 30
GUARDED = ("/v1/server", "/v1/runs", "/v1/runs/test", "/openapi.json", "/docs", "/nothing", "/healthz/", "//readyz")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[httpx.Client]:
    """Of a server with tokens."""
    path = tmp_path / "tokens"
    path.write_text(f"job train {TRAIN}\nboard read {READ}\n")
    path.chmod(0o600)
    with (
        ScoreServer(http=Address("127.0.0.1", 0), access=Access(tokens=Tokens(path))) as server,
        httpx.Client(base_url=f"http://{server.http_address}", trust_env=False) as client,
    ):
        yield client


@pytest.mark.parametrize("path", GUARDED)
def test_without_a_token_nothing_is_said(web: httpx.Client, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TRAIN}"}):
        answer = web.get(path, headers=headers, params={"token": TRAIN, "access_token": TRAIN})
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "Authorization: Bearer TOKEN" in answer.json()["detail"]


@pytest.mark.parametrize("token", [TRAIN, READ])
def test_any_token_reads(web: httpx.Client, token: str) -> None:
    assert web.get("/v1/runs", headers={"Authorization": f"Bearer {token}"}).json() == {"runs": []}
    assert web.get("/v1/runs/none", headers={"Authorization": f"Bearer {token}"}).status_code == 404


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_token(web: httpx.Client, path: str) -> None:
    assert web.get(path).status_code == 200


def test_a_foreign_host_is_refused_before_its_token_is_looked_at(web: httpx.Client) -> None:
    headers = {"Host": "evil.example", "Authorization": f"Bearer {READ}"}
    for path in ("/v1/runs", "/healthz"):
        assert web.get(path, headers=headers).status_code == 400


def test_beyond_loopback_the_host_must_be_an_address_or_a_name_that_was_given() -> None:
    own = ("10.1.2.3", "[fd00::1]:8080", "localhost", "scores.example:80", "SCORES.example")
    foreign = ("evil.example", "10.1.2.3.evil.example", "scores.example.evil", "", "a:b")
    with ScoreServer(http=Address("0.0.0.0", 0), access=Access(http_hosts=("Scores.Example",))) as server:
        assert server.http_address is not None
        url = f"http://127.0.0.1:{server.http_address.port}/v1/runs"
        codes = {host: httpx.get(url, headers={"Host": host}, trust_env=False).status_code for host in own + foreign}
    assert codes == {**dict.fromkeys(own, 200), **dict.fromkeys(foreign, 400)}
