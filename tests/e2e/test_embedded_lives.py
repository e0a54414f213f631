"""Lives and deaths around an embedded server: of those who start it, of those who use it, and its own."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from infobatch_client.embedded.server import EmbeddedServer
from infobatch_client.embedded.server_files import credentials_of
from infobatch_client.rpc.client import ScoreClient
from infobatch_stream import ServerError, __version__
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.e2e.conftest import make_shards
from tests.e2e.embedded_lives import HOLD, Program, listens, servers_of, wait_until, wait_until_nothing_is_left
from tests.suspend import suspend


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    """Programs to be killed after the test, where it has not ended them."""
    started: list[Program] = []
    yield started
    for program in started:
        if program.process.poll() is None:
            program.kill()


def nonce(address: str, folder: Path) -> str:
    credentials = credentials_of(json.loads((folder / "endpoint.json").read_text()))
    with closing(ScoreClient(address, call_timeout_s=5, credentials=credentials)) as client:
        return str(client.get_server(pb.GetServerRequest()).nonce)


# Elections.


def test_of_eight_programs_at_once_one_starts_the_server(tmp_path: Path, programs: list[Program]) -> None:
    programs += [Program(HOLD, tmp_path) for _ in range(8)]
    lines = {program.line() for program in programs}
    (line,) = lines
    pid, address = line.split()
    assert servers_of(tmp_path) == [int(pid)]
    for program in programs[:7]:
        assert program.end() == 0
    assert nonce(address, tmp_path)
    assert programs[7].end() == 0
    wait_until_nothing_is_left(tmp_path, address)


def test_a_program_that_is_killed_while_it_starts_the_server_leaves_one_for_the_others(
    tmp_path: Path, programs: list[Program]
) -> None:
    """As soon as the server's process is there, long before it answers."""
    programs.append(Program(HOLD, tmp_path))
    wait_until(lambda: servers_of(tmp_path), "no server process")
    programs += [Program(HOLD, tmp_path) for _ in range(3)]
    programs[0].kill()
    (line,) = {program.line() for program in programs[1:]}
    pid, address = line.split()
    wait_until(lambda: servers_of(tmp_path) == [int(pid)], "more than one server")
    for program in programs[1:]:
        assert program.end() == 0
    wait_until_nothing_is_left(tmp_path, address)


def test_a_program_that_is_killed_once_its_server_has_the_folder_leaves_it_to_the_others(
    tmp_path: Path, programs: list[Program]
) -> None:
    programs.append(Program(HOLD, tmp_path))
    owner = tmp_path / "server" / "server.lock"
    wait_until(lambda: owner.exists() and owner.read_text().endswith("\n"), "the folder was not taken")
    programs[0].kill()
    server = EmbeddedServer.start(tmp_path)
    assert server.pid == int(owner.read_text())
    assert servers_of(tmp_path) == [server.pid]
    server.release()
    wait_until_nothing_is_left(tmp_path, server.address)


def test_a_server_whose_only_program_was_killed_while_it_started_ends_by_itself(
    tmp_path: Path, programs: list[Program]
) -> None:
    programs.append(Program(HOLD, tmp_path))
    wait_until(lambda: servers_of(tmp_path), "no server process")
    programs[0].kill()
    wait_until_nothing_is_left(tmp_path)


# Deaths of users, and of the server.


def test_the_server_outlives_programs_that_are_killed_and_ends_after_the_last(
    tmp_path: Path, programs: list[Program]
) -> None:
    programs.append(Program(HOLD, tmp_path))  # starts it
    pid, address = programs[0].line().split()
    programs += [Program(HOLD, tmp_path) for _ in range(2)]
    assert [program.line() for program in programs[1:]] == [f"{pid} {address}"] * 2
    for program in programs[:2]:
        program.kill()
    found = EmbeddedServer.start(tmp_path)
    assert (found.pid, found.alive) == (int(pid), True)
    found.release()
    programs[2].kill()
    wait_until_nothing_is_left(tmp_path, address)


@pytest.mark.parametrize("own_child", [True, False])
def test_a_killed_server_is_noticed_and_the_next_program_starts_another(
    tmp_path: Path, programs: list[Program], own_child: bool
) -> None:
    if not own_child:
        programs.append(Program(HOLD, tmp_path))
        programs[0].line()
    first = EmbeddedServer.start(tmp_path)
    assert first.alive
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: not first.alive, "the end of the server was not noticed")
    second = EmbeddedServer.start(tmp_path)
    assert (second.alive, first.alive) == (True, False)
    assert second.pid != first.pid
    assert nonce(second.address, tmp_path)
    first.release()
    second.release()
    for program in programs:
        assert program.end() == 0
    wait_until_nothing_is_left(tmp_path, first.address, second.address)


def test_a_server_that_is_stopped_is_alive_and_one_that_cannot_be_seen_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = EmbeddedServer.start(tmp_path)
    monkeypatch.delattr(os, "pidfd_open")
    unseen = EmbeddedServer.start(tmp_path)
    assert unseen.alive
    suspend(seen.pid)
    assert seen.alive
    os.kill(seen.pid, signal.SIGKILL)
    wait_until(lambda: not seen.alive, "the end of the server was not noticed")
    assert not unseen.alive
    seen.release()
    unseen.release()
    wait_until_nothing_is_left(tmp_path, seen.address)


def test_a_server_that_keeps_silent_is_an_error_that_names_it_and_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = EmbeddedServer.start(tmp_path)
    suspend(first.pid)
    monkeypatch.setattr("infobatch_client.embedded.server._START_TIMEOUT_S", 1.0)
    words = rf"of {tmp_path} \(pid {first.pid}\) runs, and has not answered .*end it, or pass another state_dir="
    with pytest.raises(ServerError, match=rf"(?s){words}.*{first.log}:.*infobatch score server: grpc"):
        EmbeddedServer.start(tmp_path)
    os.kill(first.pid, signal.SIGCONT)
    monkeypatch.undo()
    again = EmbeddedServer.start(tmp_path)
    assert again.pid == first.pid
    again.release()
    first.release()
    wait_until_nothing_is_left(tmp_path, first.address)


@pytest.mark.parametrize("name", ["start.lock", "users.lock"])
def test_a_lock_that_is_never_given_back_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("infobatch_client.embedded.server._START_TIMEOUT_S", 0.1)
    with open(tmp_path / name, "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ServerError, match=f"has held {tmp_path / name} for 0 s.*or pass another state_dir="):
            EmbeddedServer.start(tmp_path)
    assert servers_of(tmp_path) == []


INTERRUPTED = """
import sys
import torch
from infobatch_stream import Connection, InfoBatchLoader, InfoBatchStreamDataset

def number(sample):
    return int(sample["txt"])

connection = Connection(state_dir=sys.argv[2])
dataset = InfoBatchStreamDataset(sys.argv[1], connection=connection, run="interrupted", epochs=3).map(number)
with InfoBatchLoader(dataset, batch_size=10) as loader:
    for _ in loader.epochs():
        for step, numbers in enumerate(loader):
            loader.update(torch.as_tensor(numbers) + 1.0)
            if step == 4:
                print("trained", flush=True)
                sys.stdin.read()
"""


def test_ctrl_c_loses_no_score(tmp_path: Path, programs: list[Program]) -> None:
    """The program starts its server, so that both get the signal unless the server has a session of its own."""
    make_shards(tmp_path, [100])
    state = tmp_path / "state"
    programs.append(Program(INTERRUPTED, tmp_path, state))
    assert programs[0].line() == "trained"
    server = EmbeddedServer.start(state)
    programs[0].send(signal.SIGINT)
    assert programs[0].end() == -signal.SIGINT
    with closing(ScoreClient(server.address, credentials=server.credentials)) as client:
        parts = [part.scores for part in client.read_scores(pb.ReadScoresRequest(run="interrupted"))]
    scores = np.frombuffer(b"".join(parts), "<f4")
    scored = np.flatnonzero(~np.isnan(scores))
    assert len(scored) == 50
    np.testing.assert_array_equal(scores[scored], scored + 1.0)
    server.release()
    wait_until_nothing_is_left(state, server.address)


# Endpoint files that are not true any more.


@contextmanager
def stranger(says: bytes | None) -> Iterator[str]:
    """Another program on a port: says that to whoever connects, or nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    taken.append(listening.accept()[0])
                    if says is not None:
                        taken[-1].sendall(says)
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        for connection in taken:
            connection.close()


def write_endpoint(folder: Path, address: str, **fields: object) -> None:
    """An endpoint file of this process, which lives, and serves nothing."""
    words = {"grpc": address, "http": address, "nonce": "old", "version": __version__, "pid": os.getpid(), **fields}
    (folder / "endpoint.json").write_text(json.dumps(words))


@pytest.mark.parametrize(
    "says",
    [
        pytest.param(None, id="silent"),
        pytest.param(b"220 mail.example.org ESMTP\r\n" * 9, id="mail", marks=pytest.mark.long),
        pytest.param(b"\0" * 99, id="zeros", marks=pytest.mark.long),
    ],
)
def test_another_program_on_a_stale_port_is_left_alone(tmp_path: Path, says: bytes | None) -> None:
    with stranger(says) as address:
        write_endpoint(tmp_path, address)
        began = time.monotonic()
        own = EmbeddedServer.start(tmp_path)
        assert time.monotonic() - began < 30
        assert own.address != address
        assert servers_of(tmp_path) == [own.pid]
        own.release()
    wait_until_nothing_is_left(tmp_path, own.address)


@pytest.mark.parametrize(
    "says",
    [
        pytest.param(None, id="silent", marks=pytest.mark.long),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="http"),
    ],
)
def test_a_stale_file_beside_a_server_that_is_starting_is_not_trusted(
    tmp_path: Path, programs: list[Program], says: bytes | None
) -> None:
    """Whoever started the server was killed, and the file is of the server before."""
    programs.append(Program(HOLD, tmp_path))
    pid = int(programs[0].line().split()[0])
    true_words = (tmp_path / "endpoint.json").read_text()
    with stranger(says) as address:
        write_endpoint(tmp_path, address, pid=pid)
        late = threading.Timer(3.0, (tmp_path / "endpoint.json").write_text, [true_words])
        late.start()
        found = EmbeddedServer.start(tmp_path)
        late.join()
        assert (found.pid, servers_of(tmp_path)) == (pid, [pid])
    found.release()
    assert programs[0].end() == 0
    wait_until_nothing_is_left(tmp_path, found.address)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"grpc": 1}', '{"grpc": "x", "nonce": "n", "pid": "p", "http": ""}', "\0"]
)
def test_an_endpoint_file_that_is_damaged_is_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "endpoint.json").write_text(text)
    own = EmbeddedServer.start(tmp_path)
    assert json.loads((tmp_path / "endpoint.json").read_text())["pid"] == own.pid
    own.release()


def test_two_versions_on_one_folder_are_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = EmbeddedServer.start(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("infobatch_client.embedded.server.__version__", "9.9.9")
        words = rf"of {tmp_path} \(pid {first.pid}\) is version {__version__}, .*client is version 9\.9\.9"
        with pytest.raises(ServerError, match=words + ": end the programs that use it.*or pass another state_dir="):
            EmbeddedServer.start(tmp_path)
    again = EmbeddedServer.start(tmp_path)
    assert (again.address, first.alive) == (first.address, True)
    again.release()
    first.release()


def test_a_state_on_a_network_file_system_is_kept_where_locks_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    mounts = f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {tmp_path}/home rw - nfs4 server:/home rw\n"
    monkeypatch.setattr("infobatch_client.embedded.state_folder.mounts_of_this_process", lambda: mounts)
    with pytest.warns(UserWarning, match="network file system"):
        server = EmbeddedServer.start(tmp_path / "home" / ".infobatch")
    assert server.folder.is_relative_to(tmp_path / "tmp")
    assert server.log.read_text()
    assert listens(server.address)
    server.release()
    wait_until_nothing_is_left(server.folder, server.address)
