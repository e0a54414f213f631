"""Trainings against a real server with TLS and tokens, and those that it refuses."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from infobatch_client.rpc.client import ScoreClient
from infobatch_client.rpc.credentials import Credentials
from infobatch_client.rpc.rest import get_json
from infobatch_client.rpc.secret import Secret
from infobatch_client.run.score_pusher import ScorePusher
from infobatch_server.access.access import Access
from infobatch_server.access.certificates import Certificates
from infobatch_server.access.tokens import Tokens
from infobatch_server.process.address import Address
from infobatch_server.server import ScoreServer
from infobatch_stream import Connection, PermissionDeniedError, ServerUnreachableError, UnauthenticatedError, cli
from infobatch_stream.errors import AccessError, ConfigError
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.certificates import Authority, Signed, needs_openssl
from tests.e2e.conftest import make_shards
from tests.e2e.training import make_loader, train_pass
from tests.server.calls import attach_request, create_messages, make_spec

pytestmark = needs_openssl

TRAIN, READ, WRONG = "train-" + "t" * 30, "read-" + "r" * 30, "wrong-" + "w" * 30


def write(path: Path, text: str) -> Path:
    """Replaces a file that only its owner can read, at once."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    os.replace(new, path)
    return path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture(scope="module")
def signed(authority: Authority) -> Signed:
    return authority.sign("server")


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """The server's token file."""
    return write(tmp_path / "tokens", f"job train {TRAIN}\nboard read {READ}\n")


@pytest.fixture
def server(signed: Signed, tokens: Path) -> Iterator[ScoreServer]:
    access = Access(tokens=Tokens(tokens), certificates=Certificates(signed.cert, signed.key))
    with ScoreServer(http=Address("127.0.0.1", 0), access=access) as server:
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The client's token file."""
    return write(tmp_path / "own", f"{TRAIN}\n")


def url_of(server: ScoreServer) -> str:
    return f"grpcs://{server.grpc_address}"


def waits_for(condition: Callable[[], bool], timeout_s: float = 30) -> bool:
    """Whether something happens in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return condition()


def test_a_training_over_tls_stores_its_scores(
    server: ScoreServer,
    authority: Authority,
    own: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    make_shards(tmp_path, [60])
    connection = Connection(token_file=own, ca=authority.cert)
    shards = str(tmp_path / "*.tar")
    loader = make_loader(shards, url_of(server), "secure", 20, epochs=2, connection=connection)
    for _ in loader.epochs():
        train_pass(loader)
    loader.close()
    http = ["--http", f"https://{server.http_address}", "--ca", str(authority.cert), "--token-file", str(own)]
    assert cli.main(["stats", "secure", *http]) == 0
    grpc_options = ["--grpc", url_of(server), "--ca", str(authority.cert), "--token-file", str(own)]
    assert cli.main(["forget-drops", "secure", *grpc_options]) == 0
    said = capfd.readouterr()
    assert "trained_samples" in said.out
    assert TRAIN not in said.out + said.err + caplog.text


@pytest.mark.parametrize(
    ("token", "kind", "words"),
    [
        (None, UnauthenticatedError, r"no token; .*this client has no token: give Connection\(token_file=…\)"),
        (WRONG, UnauthenticatedError, r"none of this server's; .*the token is that of token="),
        (READ, PermissionDeniedError, r"CreateRun needs a token with scope train"),
    ],
)
def test_a_training_without_the_right_token_ends_at_once(
    server: ScoreServer,
    authority: Authority,
    tmp_path: Path,
    token: str | None,
    kind: type[AccessError],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    make_shards(tmp_path, [60])
    connection = Connection(token=token, ca=authority.cert)
    began = time.monotonic()
    with pytest.raises(kind, match=words) as caught:
        next(iter(make_loader(str(tmp_path / "*.tar"), url_of(server), "r", 20, connection=connection)))
    assert time.monotonic() - began < 20  # of the 60 s that a first contact may take
    assert not {TRAIN, READ, WRONG} & set(f"{caught.value} {caplog.text}".split())


def test_rest_over_tls_needs_a_token_and_the_right_one(server: ScoreServer, authority: Authority, own: Path) -> None:
    http = f"https://{server.http_address}"
    for token_file, fails in ((own, False), (write(own.with_name("wrong"), WRONG), True)):
        credentials = Credentials(token_file=token_file, ca=authority.cert)
        if fails:
            with pytest.raises(UnauthenticatedError, match=r"401 .*Bearer TOKEN.*the token is that of .*/wrong"):
                get_json(http, "/v1/runs", credentials=credentials)
        else:
            assert get_json(http, "/v1/runs", credentials=credentials) == {"runs": []}


def test_scores_wait_while_the_token_is_refused_and_go_on_with_the_next_one(
    server: ScoreServer, authority: Authority, own: Path, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(ScoreClient(url_of(server), credentials=Credentials(token_file=own, ca=authority.cert))) as client:
        run = client.create_run(iter(create_messages(make_spec("rotated")))).run_id
        generation = client.attach_run(attach_request(run)).generation
        list(client.get_epoch_plan(pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=0)))
        new = "new-" + "n" * 30
        write(tokens, f"job train {new}\n")
        pusher = ScorePusher(client, run_id=run, generation=generation, heartbeat_interval_s=1000)
        pusher.start()
        pusher.put_scores(0, np.arange(5), torch.arange(5.0))
        assert waits_for(lambda: pusher.counts.retries >= 3)
        assert (pusher.failure, pusher.counts.pushed, pusher.outbox.records) == (None, 0, 5)
        warnings = [record.message for record in caplog.records if record.name.endswith("score_pusher")]
        assert len(warnings) == 1
        assert "none of this server's" in warnings[0]
        assert "which is read again when it changes" in warnings[0]
        write(own, new)
        assert pusher.flush(30)
        pusher.close(1)
        assert pusher.counts.pushed == 5
        stored = b"".join(part.scores for part in client.read_scores(pb.ReadScoresRequest(run="rotated")))
    np.testing.assert_array_equal(np.frombuffer(stored, "<f4")[:5], np.arange(5))
    assert not [token for token in (TRAIN, new) if token in caplog.text]


def test_an_epoch_opens_with_the_next_token_if_the_first_is_refused(
    server: ScoreServer, authority: Authority, own: Path, tokens: Path, tmp_path: Path
) -> None:
    make_shards(tmp_path, [60])
    connection = Connection(token_file=own, ca=authority.cert)
    loader = make_loader(str(tmp_path / "*.tar"), url_of(server), "r", 20, epochs=3, connection=connection)
    epochs = loader.epochs()
    next(epochs)
    train_pass(loader)
    assert loader.flush(30)
    new = "new-" + "n" * 30
    write(tokens, f"job train {new}\n")
    replace = threading.Timer(1.0, write, [own, new])
    replace.start()
    next(epochs)
    assert loader.plan.plan_id.partition(":")[0] != "full"
    replace.join()
    train_pass(loader)
    loader.close()
    assert loader.metrics()["scores_lost"] == 0


def first_contact(url: str, credentials: Credentials, timeout_s: float = 2.5) -> str:
    unreachable = pytest.raises((ServerUnreachableError, ConfigError))
    with closing(ScoreClient(url, credentials=credentials)) as client, unreachable as caught:
        client.wait_until_up(timeout_s)
    return str(caught.value)


def test_plain_text_to_tls_says_how_to_call(server: ScoreServer) -> None:
    words = first_contact(str(server.grpc_address), Credentials())
    assert f"it speaks TLS, and this client connects without; give 'grpcs://{server.grpc_address}'" in words


def test_tls_to_plain_text_is_refused(authority: Authority) -> None:
    with ScoreServer() as plain:
        words = first_contact(url_of(plain), Credentials(token=Secret(TRAIN), ca=authority.cert))
    assert "it doesn't speak TLS" in words


def test_a_certificate_of_an_unknown_authority_is_not_trusted(server: ScoreServer, tmp_path: Path) -> None:
    words = first_contact(url_of(server), Credentials(ca=Authority(tmp_path / "other").cert))
    assert "its certificate is not to be trusted" in words
    assert "is ca= the authority that has signed it?" in words


def test_a_certificate_for_another_name_is_not_trusted(authority: Authority, tokens: Path) -> None:
    elsewhere = authority.sign("elsewhere", "DNS:scores.example")
    access = Access(tokens=Tokens(tokens), certificates=Certificates(elsewhere.cert, elsewhere.key))
    with ScoreServer(access=access) as server:
        words = first_contact(url_of(server), Credentials(ca=authority.cert))
    assert "its certificate is not to be trusted: IP address mismatch" in words


def test_an_expired_certificate_is_not_trusted(authority: Authority) -> None:
    """A score server doesn't start with one; this one's has expired meanwhile."""
    expired = authority.sign("expired", expired=True)
    pair = (expired.key.read_bytes(), expired.cert.read_bytes())
    server = grpc.server(None)  # type: ignore[arg-type]  # takes connections, and no call gets as far as a thread
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    words = first_contact(f"grpcs://127.0.0.1:{port}", Credentials(token=Secret(TRAIN), ca=authority.cert))
    server.stop(None).wait(10)
    assert "its certificate is not to be trusted: certificate has expired" in words
    assert TRAIN not in words


def test_new_certificates_are_used_without_a_restart(
    server: ScoreServer, authority: Authority, own: Path, tmp_path: Path
) -> None:
    ca = write(tmp_path / "ca.pem", Authority(tmp_path / "other").cert.read_text())
    credentials = Credentials(token_file=own, ca=ca)
    with closing(ScoreClient(url_of(server), credentials=credentials)) as client:
        with pytest.raises(ServerUnreachableError):
            client.get_server(pb.GetServerRequest(), timeout_s=2)
        write(ca, authority.cert.read_text())
        assert client.wait_until_up(30).nonce == server.nonce


def test_a_server_that_wants_a_client_certificate_is_called_with_one(authority: Authority, signed: Signed) -> None:
    access = Access(certificates=Certificates(signed.cert, signed.key, authority.cert))
    client = authority.sign("client")
    with ScoreServer(access=access) as server:
        assert "wants a client certificate" in first_contact(url_of(server), Credentials(ca=authority.cert))
        credentials = Credentials(ca=authority.cert, client_cert=client.cert, client_key=client.key)
        with closing(ScoreClient(url_of(server), credentials=credentials)) as caller:
            assert caller.wait_until_up(10).nonce == server.nonce
