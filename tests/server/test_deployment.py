"""What a container needs: its health check, its secrets, and the services of docker-compose.yml."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infobatch_server import serve_command
from infobatch_server.access.access import Access
from infobatch_server.access.certificates import Certificates
from infobatch_server.access.tokens import Scope, Tokens
from infobatch_server.process.address import Address
from infobatch_server.server import ScoreServer
from tests.certificates import Authority, needs_openssl

ROOT = Path(__file__).parents[2]
SERVICES = {"score-server": "plain", "score-server-secure": "secure"}


def is_healthy(port: int) -> bool:
    """What the container's health check says."""
    return subprocess.run([sys.executable, ROOT / "server/healthcheck.py", str(port)], check=False).returncode == 0


@needs_openssl
def test_the_health_check_sees_a_server_that_is_ready_with_and_without_tls(tmp_path: Path) -> None:
    signed = Authority(tmp_path / "ca").sign("elsewhere", "DNS:scores.example")
    for access in (Access(), Access(certificates=Certificates(signed.cert, signed.key))):
        with ScoreServer(http=Address("127.0.0.1", 0), access=access) as server:
            assert server.http_address is not None
            port = server.http_address.port
            assert is_healthy(port)
            server._ready = False
            assert not is_healthy(port)
        assert not is_healthy(port)


@needs_openssl
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")
def test_the_secrets_that_are_made_are_those_that_the_server_takes(tmp_path: Path) -> None:
    shutil.copy(ROOT / "deploy/make-secrets", tmp_path)
    secrets = tmp_path / "secrets"
    for _ in range(2):  # again, it changes nothing
        subprocess.run([tmp_path / "make-secrets", "Scores.example", "10.0.0.5"], check=True, capture_output=True)
        files = sorted(secrets.rglob("*"))
        assert [path.name for path in files if path.stat().st_mode & 0o077] == ["ca.pem"]
        assert {path.stat().st_uid for path in secrets.glob("server/*")} == {10001}
    certificates = Certificates(secrets / "server/server.pem", secrets / "server/server.key")
    assert certificates.names == ("localhost", "127.0.0.1", "scores.example", "10.0.0.5")
    tokens = Tokens(secrets / "server/tokens")
    assert tokens.scope_of((secrets / "training.token").read_text().strip()) is Scope.TRAIN
    assert tokens.scope_of((secrets / "reading.token").read_text().strip()) is Scope.READ


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert set(found) == set(SERVICES)
    return found


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_right_that_it_does_not_need(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.search(r"^USER infobatch$", (ROOT / "server/Dockerfile").read_text(), re.M)


def test_the_service_without_tokens_is_published_on_loopback_only(services: dict[str, Any]) -> None:
    assert services["score-server"]["ports"] == ["127.0.0.1:50051:50051", "127.0.0.1:8080:8080"]
    assert "profiles" not in services["score-server"]
    assert services["score-server-secure"]["profiles"] == ["secure"]


def options(service: dict[str, Any]) -> argparse.Namespace:
    command, *given = shlex.split(service["command"])
    assert command == "serve"
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    return parser.parse_args(given)


def test_the_services_start_with_options_that_the_server_has(services: dict[str, Any]) -> None:
    plain, secure = (options(services[name]) for name in SERVICES)
    assert (plain.insecure, plain.tokens, plain.http_host) == (True, None, ["score-server"])
    assert (secure.insecure, secure.tokens_without_tls) == (False, False)
    folder = services["score-server-secure"]["volumes"][1].split(":")[1]
    assert [str(path) for path in (secure.tls_cert, secure.tls_key, secure.tokens)] == [
        f"{folder}/{name}" for name in ("server.pem", "server.key", "tokens")
    ]
    for args in (plain, secure):
        assert (str(args.data_dir), args.grpc, args.http) == ("/data", "0.0.0.0:50051", "0.0.0.0:8080")
