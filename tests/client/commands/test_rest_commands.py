"""`infobatch runs` and `infobatch stats` against an HTTP server that answers as a score server does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from infobatch_stream import cli

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
