"""`infobatch serve` as a process, and its parts."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from infobatch_server import serve_command
from infobatch_server.access import options
from infobatch_server.access.access import Access
from infobatch_server.process.address import Address
from infobatch_server.process.data_dir import DataDir
from infobatch_server.process.users_lock import UsersLock
from infobatch_server.server import ScoreServer
from infobatch_stream.errors import ConfigError, ServerError
from infobatch_stream.plan.order_params import OrderChoice
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1 import score_service_pb2_grpc as pb_grpc
from tests.certificates import Authority, Signed, needs_openssl
from tests.server.calls import caller_on, make_spec, status

FREE = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
TRAIN, READ = "train-" + "t" * 30, "read-" + "r" * 30


def token_file(folder: Path) -> Path:
    """A file with both tokens."""
    path = folder / "tokens"
    path.write_text(f"job train {TRAIN}\nboard read {READ}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "infobatch_server", "--data-dir", str(tmp_path / "data"), *FREE]
    endpoint = ["--endpoint-file", str(tmp_path / "endpoint.json")]
    with subprocess.Popen([*command, *endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_a_signal_stops_it(process: subprocess.Popen[str], tmp_path: Path, number: signal.Signals) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    endpoint = json.loads((tmp_path / "endpoint.json").read_text())
    assert line == f"infobatch score server: grpc {endpoint['grpc']}, http {endpoint['http']}\n"
    assert stat.S_IMODE((tmp_path / "endpoint.json").stat().st_mode) == 0o600
    assert endpoint["pid"] == process.pid
    for path in ("/healthz", "/readyz", "/v1/runs"):
        assert httpx.get(f"http://{endpoint['http']}{path}", trust_env=False).status_code == 200
    channel, caller = caller_on(endpoint["grpc"])
    with channel:
        assert caller.stub.GetServer(pb.GetServerRequest(), timeout=10).nonce == endpoint["nonce"]
    with pytest.raises(ServerError, match=rf"in use by another server \(pid {process.pid}\)"):
        DataDir(tmp_path / "data")
    process.send_signal(number)
    assert process.wait(60) == 0
    assert not (tmp_path / "endpoint.json").exists()
    DataDir(tmp_path / "data").close()


def test_a_stalled_reader_does_not_delay_the_stop(process: subprocess.Popen[str], tmp_path: Path) -> None:
    assert process.stdout is not None
    process.stdout.readline()
    channel, caller = caller_on(json.loads((tmp_path / "endpoint.json").read_text())["grpc"])
    with channel:
        run = caller.create(make_spec(num_samples=2**23, policy="levels", levels="0.2:0.75,0.85:0.5")).run_id
        request = pb.GetEpochPlanRequest(run_id=run, generation=caller.attach(run), epoch=0)
        stream = caller.stub.GetEpochPlan(request)
        assert next(stream).WhichOneof("part") == "header"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_stop_does_not_wait_for_a_running_draw() -> None:
    with ScoreServer() as server:
        run, _ = server.registry.create(make_spec(), OrderChoice())
        with run.core.lock:
            run.core.feed.pause()
        assert not server.stop()


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_defaults_are_those_of_the_documentation(tmp_path: Path) -> None:
    args = parse("--data-dir", str(tmp_path))
    assert (args.grpc, args.http) == ("127.0.0.1:50051", "127.0.0.1:8080")


@pytest.mark.parametrize("option", ["--grpc", "--http"])
@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "[::]", "node1"])
def test_addresses_of_other_machines_need_tls_and_tokens(tmp_path: Path, option: str, host: str) -> None:
    with pytest.raises(ConfigError, match=r"neither TLS nor tokens: bind 127.0.0.1, or give --tls-cert, --tls-key and"):
        serve_command.run(parse("--data-dir", str(tmp_path / "data"), *FREE, option, f"{host}:0"))
    assert not (tmp_path / "data").exists()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for option in ("--grpc", "--http"):
            with pytest.raises(ServerError, match=f"can't listen on {option} {address}") as caught:
                serve_command.run(parse("--data-dir", str(tmp_path), *FREE, option, address))
            assert "\n" not in str(caught.value)


def test_a_taken_port_takes_one_line_on_stderr(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "infobatch_server", "--data-dir", str(tmp_path), *FREE, "--grpc", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        f"infobatch: can't listen on --grpc {address}: Address already in use; choose another address, or port 0 for "
        "any free port\n"
    )


@pytest.mark.parametrize("size", ["10", "0", "15MiB"])
def test_memory_in_which_no_run_fits_is_refused(tmp_path: Path, size: str) -> None:
    with pytest.raises(ConfigError, match=f"--memory-bytes must be at least 16,777,216 bytes; '{size}' is "):
        serve_command.run(parse("--data-dir", str(tmp_path / "data"), *FREE, "--memory-bytes", size))
    assert not (tmp_path / "data").exists()


def test_memory_takes_a_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []

    def serve_once(wait_for_signal: object, users: object) -> None:
        channel, caller = caller_on(json.loads((tmp_path / "endpoint.json").read_text())["grpc"])
        with channel, pytest.raises(grpc.RpcError) as caught:
            caller.create(make_spec(num_samples=2_000_000))
        refused.append(str(caught.value.details()))  # type: ignore[attr-defined]

    monkeypatch.setattr(serve_command, "wait_until_stopped", serve_once)
    arguments = ["--data-dir", str(tmp_path / "data"), "--endpoint-file", str(tmp_path / "endpoint.json"), *FREE]
    assert serve_command.run(parse(*arguments, "--memory-bytes", "32MiB")) == 0
    assert "0 of 33,554,432 are in use" in refused[0]


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServerError, match=f"--data-dir {tmp_path}/file is a file; it must be a folder"):
        serve_command.run(parse("--data-dir", str(tmp_path / "file"), *FREE))
    with pytest.raises(ServerError, match=f"--data-dir {tmp_path}/file/data: Not a directory"):
        serve_command.run(parse("--data-dir", str(tmp_path / "file" / "data"), *FREE))


# Who may call.


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Signed]:
    authority = Authority(tmp_path_factory.mktemp("authority") / "ca")
    return authority, authority.sign("server")


@needs_openssl
def test_beyond_loopback_each_part_that_is_missing_has_to_be_allowed(
    tmp_path: Path, signed: tuple[Authority, Signed], caplog: pytest.LogCaptureFixture
) -> None:
    tls = ["--tls-cert", str(signed[1].cert), "--tls-key", str(signed[1].key)]
    tokens = ["--tokens", str(token_file(tmp_path))]
    allowed_by = {
        (): "--insecure",
        tuple(tls): "--insecure",
        tuple(tokens): "--tokens-without-tls",
        (*tls, *tokens): "",
    }
    for given, remedy in allowed_by.items():
        for allowance in ("", "--insecure", "--tokens-without-tls"):
            args = parse("--data-dir", str(tmp_path), *given, *filter(None, [allowance]))
            access = options.access_of(args, None)
            caplog.clear()

            def check(args: argparse.Namespace = args, access: Access = access) -> None:
                options.check_reach(
                    *(Address("0.0.0.0", 1), Address("127.0.0.1", 2)),
                    access=access,
                    tokens_without_tls=args.tokens_without_tls,
                    insecure=args.insecure,
                )

            if remedy == allowance or not remedy:
                check()
                assert [record.levelname for record in caplog.records] == ["WARNING"] * bool(remedy)
                assert (f"{remedy}: " in caplog.text) == bool(remedy)
            else:
                with pytest.raises(ConfigError, match=f"other machines can reach 0.0.0.0:1.*{remedy}"):
                    check()


@needs_openssl
def test_a_server_with_tls_and_tokens_says_nothing_secret(tmp_path: Path, signed: tuple[Authority, Signed]) -> None:
    authority, own = signed
    wrong = "wrong-" + "w" * 30
    command = [sys.executable, "-m", "infobatch_server", "--data-dir", str(tmp_path / "data"), "--grpc", "0.0.0.0:0"]
    command += ["--http", "0.0.0.0:0", "--endpoint-file", str(tmp_path / "endpoint.json")]
    command += ["--tls-cert", str(own.cert), "--tls-key", str(own.key), "--tokens", str(token_file(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            endpoint = json.loads((tmp_path / "endpoint.json").read_text())
            context = ssl.create_default_context(cafile=authority.cert)
            url = f"https://localhost:{endpoint['http'].rpartition(':')[2]}/v1/runs"
            credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes())
            address = f"localhost:{endpoint['grpc'].rpartition(':')[2]}"
            codes, answers = [], []
            with grpc.secure_channel(address, credentials, [("grpc.enable_http_proxy", 0)]) as channel:
                stub = pb_grpc.ScoreServiceStub(channel)
                for token in (TRAIN, READ, wrong):
                    metadata = [("authorization", f"Bearer {token}")]
                    try:
                        stub.DeleteRun(pb.DeleteRunRequest(run="none"), metadata=metadata, timeout=10)
                    except grpc.RpcError as error:
                        codes.append(error.code().name)  # type: ignore[attr-defined]
                        answers.append(str(error))
                    headers = {"Authorization": f"Bearer {token}"}
                    answer = httpx.get(url, headers=headers, verify=context, trust_env=False)
                    codes.append(answer.status_code)
                    answers.append(answer.text)
            assert codes == ["NOT_FOUND", 200, "PERMISSION_DENIED", 200, "UNAUTHENTICATED", 401]
        finally:
            process.terminate()
            said = "".join(process.communicate(timeout=60))
    assert process.returncode == 0
    assert "1 with scope train, 1 with scope read" in said
    assert said.count("refused a call") == 2
    key = own.key.read_text().splitlines()[1]
    assert not [secret for secret in (TRAIN, READ, wrong, key) if secret in said + "".join(answers)]
    assert "token" not in endpoint


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--tls-cert", "a"), "--tls-cert needs --tls-key too"),
        (("--tls-key", "a"), "--tls-key needs --tls-cert too"),
        (("--tls-client-ca", "a"), "--tls-client-ca needs --tls-cert and --tls-key"),
        (("--http-host", "https://scores"), "--http-host takes the name of a host, without scheme or port"),
        (("--private",), "--private needs --endpoint-file"),
    ],
)
def test_options_that_need_others_say_so(tmp_path: Path, given: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        serve_command.run(parse("--data-dir", str(tmp_path / "data"), *FREE, *given))
    assert not (tmp_path / "data").exists()


def test_a_private_server_is_open_to_those_who_can_read_its_endpoint_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "infobatch_server", "--data-dir", str(tmp_path / "data"), *FREE, "--private"]
    command += ["--endpoint-file", str(tmp_path / "endpoint.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            endpoint = json.loads((tmp_path / "endpoint.json").read_text())
            token = {"Authorization": f"Bearer {endpoint['token']}"}
            url = f"http://{endpoint['http']}/v1/runs"
            answers = [httpx.get(url, headers=headers, trust_env=False).status_code for headers in ({}, token)]
            assert answers == [401, 200]
            channel, caller = caller_on(endpoint["grpc"])
            with channel, status(grpc.StatusCode.UNAUTHENTICATED, "no token"):
                caller.stub.GetServer(pb.GetServerRequest(), timeout=10)
        finally:
            process.terminate()
            said = "".join(process.communicate(timeout=60))
    assert endpoint["token"] not in said


# The parts that an embedded server needs.


def test_a_server_stops_when_its_last_user_exits(tmp_path: Path) -> None:
    path, now, polls = tmp_path / "users.lock", [0.0], []
    user = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(user, fcntl.LOCK_SH)
    users = UsersLock(path)

    def wait_for_signal(timeout_s: float | None) -> bool:
        assert timeout_s == 1.0
        now[0] += 1.0
        polls.append(now[0])
        if now[0] == 30:
            os.close(user)
        return False

    serve_command.wait_until_stopped(wait_for_signal, users, lambda: now[0])
    assert polls[-1] == 30
    users.close()


def test_a_server_waits_for_its_first_user(tmp_path: Path) -> None:
    now = [0.0]

    def wait_for_signal(timeout_s: float | None) -> bool:
        now[0] += 1.0
        return False

    users = UsersLock(tmp_path / "users.lock")
    serve_command.wait_until_stopped(wait_for_signal, users, lambda: now[0])
    assert now[0] == 2.0
    users.close()


def test_without_users_lock_only_a_signal_ends_it() -> None:
    timeouts = []

    def wait_for_signal(timeout_s: float | None) -> bool:
        timeouts.append(timeout_s)
        return True

    serve_command.wait_until_stopped(wait_for_signal, None)
    assert timeouts == [None]
