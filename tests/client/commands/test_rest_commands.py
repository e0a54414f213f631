"""`infobatch runs` and `infobatch stats` against an HTTP server that answers as a score server does."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from infobatch_client.embedded.server import EmbeddedServer
from infobatch_client.rpc.client import ScoreClient
from infobatch_server.server import ScoreServer
from infobatch_stream import cli
from tests.server.calls import create_messages, make_spec

RUN = {
    "run": "cifar10",
    "run_id": "0" * 32,
    "num_samples": 50_000,
    "policy": "infobatch",
    "epochs": 200,
    "last_epoch": 3,
    "epoch": 3,
    "threshold": 0.62512345,
    "kept": 36_000,
    "pruned": 14_000,
    "never_scored": None,
    "classes": [{"name": "low"}],
    "epochs_ended": 3,
    "trained_samples": 120_000,
    "saved_samples": 30_000,
    "saved_share": 0.2,
    "history": [
        {"epoch": 0, "kept": 50_000, "pruned": 0, "threshold": None, "unpruned": False},
        {"epoch": 1, "kept": 50_000, "pruned": 0, "threshold": None, "unpruned": True},
        {"epoch": 2, "kept": 34_000, "pruned": 16_000, "threshold": 0.75, "unpruned": False},
        {"epoch": 3, "kept": 36_000, "pruned": 14_000, "threshold": 0.62512345, "unpruned": False},
    ],
}


class Endpoint:
    """A local HTTP server with canned answers, which remembers the tokens that it was sent."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"/v1/runs": {"runs": [RUN]}, "/v1/runs/cifar10": RUN}
        self.authorizations: list[str | None] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.authorizations.append(self.headers["Authorization"])
                known = self.path in endpoint.answers
                answer = endpoint.answers.get(self.path, {"detail": "no such run"})
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(200 if known else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.http = f"127.0.0.1:{self.server.server_port}"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    thread = threading.Thread(target=endpoint.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()
    thread.join()


def test_runs_prints_a_line_a_run(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", "--http", endpoint.http]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "policy", "samples", "epochs", "saved"]
    assert line.split() == ["cifar10", "infobatch", "50,000", "4", "of", "200", "20.0", "%"]


def test_runs_of_a_run_that_has_not_begun(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.answers["/v1/runs"] = {"runs": [{**RUN, "last_epoch": -1, "saved_share": None}]}
    assert cli.main(["runs", "--http", endpoint.http]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-4:] == ["0", "of", "200", "-"]


def test_runs_of_an_empty_server_says_so(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.answers["/v1/runs"] = {"runs": []}
    assert cli.main(["runs", "--http", endpoint.http]) == 0
    assert capsys.readouterr().out == "no runs yet\n"


def test_stats_prints_every_plain_field(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stats", "cifar10", "--http", f"http://{endpoint.http}/"]) == 0
    plain, _ = capsys.readouterr().out.split("\n\n")
    assert dict(line.split(maxsplit=1) for line in plain.splitlines()) == {
        "run": "cifar10",
        "run_id": "0" * 32,
        "num_samples": "50,000",
        "policy": "infobatch",
        "epochs": "200",
        "last_epoch": "3",
        "epoch": "3",
        "threshold": "0.625123",
        "kept": "36,000",
        "pruned": "14,000  (28.0 %)",
        "never_scored": "-",
        "epochs_ended": "3",
        "trained_samples": "120,000",
        "saved_samples": "30,000",
        "saved_share": "20.0 %",
    }


def test_stats_shows_the_plans_by_epoch(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stats", "cifar10", "--http", endpoint.http]) == 0
    _, table = capsys.readouterr().out.split("\n\n")
    assert table.splitlines() == [
        "epoch    kept  pruned  threshold",
        "0–1    50,000       0          -",
        "2      34,000  16,000       0.75",
        "3      36,000  14,000   0.625123",
    ]


def test_stats_shows_dropped_samples_if_a_plan_left_some_out(
    endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    history = [{**line, "dropped": 900 * (line["epoch"] > 1)} for line in RUN["history"]]
    endpoint.answers["/v1/runs/cifar10"] = {**RUN, "history": history}
    assert cli.main(["stats", "cifar10", "--http", endpoint.http]) == 0
    _, table = capsys.readouterr().out.split("\n\n")
    assert table.splitlines()[:3] == [
        "epoch    kept  pruned  dropped  threshold",
        "0–1    50,000       0        0          -",
        "2      34,000  16,000      900       0.75",
    ]


def test_json_is_passed_on_as_it_came(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stats", "cifar10", "--json", "--http", endpoint.http]) == 0
    assert json.loads(capsys.readouterr().out) == RUN


def test_an_unknown_run_gives_the_servers_words(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stats", "a/b", "--http", endpoint.http]) == 2
    error = capsys.readouterr().err
    assert "/v1/runs/a%2Fb answered 404" in error
    assert error.endswith(": no such run\n")


def test_what_is_not_a_score_server_is_said_so(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.answers["/v1/runs"] = b"<html>"
    assert cli.main(["runs", "--http", endpoint.http]) == 2
    assert "is it a score server's --http address?" in capsys.readouterr().err


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xfe", b"[" * 100_000, b"", b"7", b'"text"', b"null"])
@pytest.mark.parametrize("command", [["runs"], ["stats", "cifar10"]])
def test_any_answer_of_another_server_is_one_line(
    command: list[str], body: bytes, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.answers = {"/v1/runs": body, "/v1/runs/cifar10": body}
    assert cli.main([*command, "--http", endpoint.http]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("infobatch: ")
    assert said.err.count("\n") == 1


def test_a_grpc_port_is_named_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    with ScoreServer() as server:
        assert cli.main(["runs", "--http", str(server.grpc_address)]) == 2
    said = capsys.readouterr().err
    assert "doesn't answer in HTTP: is it the port for training (--grpc)" in said
    assert said.count("\n") == 1


def test_a_runs_name_can_be_anything_but_empty(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stats", "", "--http", endpoint.http]) == 2
    assert "a run's name can't be empty" in capsys.readouterr().err
    assert cli.main(["stats", "\udcff", "--http", endpoint.http]) == 2
    assert "/v1/runs/%FF answered 404" in capsys.readouterr().err


def command_line(*arguments: str) -> str:
    return shlex.join([sys.executable, "-m", "infobatch_stream", *arguments])


def test_a_reader_that_goes_away_is_no_error(endpoint: Endpoint) -> None:
    pipe = f"{command_line('runs', '--json', '--http', endpoint.http)} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_disk_that_is_full_is_one_line(endpoint: Endpoint) -> None:
    command = f"{command_line('runs', '--http', endpoint.http)} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "infobatch: No space left on device\n")


def test_a_terminal_without_a_sign_shows_another_one(endpoint: Endpoint) -> None:
    done = subprocess.run(
        ["bash", "-c", command_line("stats", "cifar10", "--http", endpoint.http)],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\n0?1    50,000 " in done.stdout


def test_without_an_address_the_embedded_server_of_the_folder_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    server = EmbeddedServer.start()
    try:
        assert cli.main(["runs"]) == 0
        said = capsys.readouterr()
        assert said.out == "no runs yet\n"
        assert said.err == f"infobatch: the embedded server of {tmp_path}/.infobatch, at {server.http_address}\n"
        assert cli.main(["stats", "none", "--state-dir", ".infobatch"]) == 2
        assert "no run 'none'" in capsys.readouterr().err
    finally:
        server.release()


def test_forget_drops_finds_the_embedded_server_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    server = EmbeddedServer.start()
    try:
        with closing(ScoreClient(server.address, credentials=server.credentials)) as client:
            client.create_run(iter(create_messages(make_spec("small"))))
        for place in ([], ["--state-dir", ".infobatch"]):
            assert cli.main(["forget-drops", "small", *place]) == 0
            said = capsys.readouterr()
            assert said.out.startswith("run small: 0 dropped samples are forgotten")
            assert said.err == f"infobatch: the embedded server of {tmp_path}/.infobatch, at {server.address}\n"
        assert cli.main(["forget-drops", "none"]) == 2
        assert "no run 'none'" in capsys.readouterr().err
    finally:
        server.release()


def test_forget_drops_of_a_folder_without_a_server_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["forget-drops", "x", "--state-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == f"infobatch: no server runs in {tmp_path}: an embedded one ends with its training\n"
    assert cli.main(["forget-drops", "x", "--state-dir", str(tmp_path / "nowhere")]) == 2
    assert f"no server runs in {tmp_path}/nowhere: there is no such folder" in capsys.readouterr().err


def test_a_server_is_named_in_one_way_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["forget-drops", "x", "--state-dir", str(tmp_path), "--grpc", "127.0.0.1:5"])
    assert "not allowed with argument --state-dir" in capsys.readouterr().err


def test_a_folder_without_a_server_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["runs", "--state-dir", "nowhere"]) == 2
    assert f"no server runs in {tmp_path}/nowhere: there is no such folder" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / ".infobatch").mkdir()
    (tmp_path / ".infobatch" / "endpoint.json").write_text('{"http": "127.0.0.1:9"}')  # left over from a dead one
    assert cli.main(["runs", "--state-dir", ".infobatch"]) == 2
    assert "an embedded one ends with its training" in capsys.readouterr().err


def test_nobody_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    silent = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    silent.server_close()
    assert cli.main(["runs", "--http", f"127.0.0.1:{silent.server_port}"]) == 2
    assert "infobatch: no score server at http://127.0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize("http", ["ftp://host:1", "", "host:port"])
def test_what_is_no_address_is_refused(http: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", "--http", http]) == 2
    assert "HOST:PORT" in capsys.readouterr().err


def test_the_token_comes_from_the_file_or_the_environment(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("from-file\n")
    cli.main(["runs", "--http", endpoint.http])
    monkeypatch.setenv("INFOBATCH_TOKEN", "from-environment")
    cli.main(["runs", "--http", endpoint.http])
    cli.main(["runs", "--http", endpoint.http, "--token-file", str(token_file)])
    assert endpoint.authorizations == [None, "Bearer from-environment", "Bearer from-file"]


def test_a_token_file_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", "--token-file", str(tmp_path / "nowhere")]) == 2
    assert "can't read the token file" in capsys.readouterr().err


def test_stats_shows_the_groups_of_a_run(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    web = {
        "name": "web",
        "samples": 900,
        "scored": 900,
        "threshold": 2.5,
        "mean_score": 2.5,
        "kept": 700,
        "pruned": 200,
    }
    books = {**web, "name": "books", "threshold": None, "mean_score": None, "kept": 900, "pruned": 0}
    endpoint.answers["/v1/runs/cifar10"] = {**RUN, "groups": [books, web]}
    assert cli.main(["stats", "cifar10", "--http", endpoint.http]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    place = lines.index(["group", "samples", "scored", "threshold", "kept", "pruned", "mean_score"])
    assert [line[0] for line in lines[place + 1 : place + 3]] == ["books", "web"]
    assert lines[place + 2] == ["web", "900", "900", "2.5", "700", "200", "2.5"]


@pytest.mark.parametrize("address", ["foo", "127.0.0.1", "", ":5", "127.0.0.1:99999", "http://127.0.0.1:5"])
def test_forget_drops_refuses_what_is_no_address(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["forget-drops", "x", "--grpc", address]) == 2
    assert "is no gRPC address; give 'HOST:PORT'" in capsys.readouterr().err
