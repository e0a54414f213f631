"""One connection for many threads: one commit for a group, nothing of a group that fails, and refusals that say why."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from infobatch_server.store.database import Connection, Database, connect_sqlite
from infobatch_stream.errors import ServerBusyError, ServerError, TryAgainError

SCHEMA = ("CREATE TABLE numbers (number INTEGER)",)


class Watched:
    """A connection that counts commits, and fails where a test wants it to."""

    def __init__(self, path: Path) -> None:
        self._connection = connect_sqlite(path)
        self.commits = 0
        self.fail_at: tuple[str, sqlite3.Error] | None = None

    def execute(self, sql: str, parameters: Any = (), /) -> Iterable[tuple[Any, ...]]:
        if self.fail_at is not None and sql.startswith(self.fail_at[0]):
            raise self.fail_at[1]
        self.commits += sql == "COMMIT"
        return self._connection.execute(sql, parameters)

    def close(self) -> None:
        self._connection.close()


def make(path: Path, version: int = 1) -> tuple[Database, Watched]:
    made: list[Watched] = []

    def connect(where: Path) -> Connection:
        made.append(Watched(where))
        return made[0]

    return Database(path / "state.db", version=version, schema=SCHEMA, connect=connect), made[0]


def add(number: int) -> Any:
    return lambda connection: connection.execute("INSERT INTO numbers VALUES (?)", (number,))


def numbers(database: Database) -> list[int]:
    return database.alone(
        lambda connection: [n for (n,) in connection.execute("SELECT number FROM numbers ORDER BY 1")]
    )


def test_changes_of_many_threads_share_a_commit(tmp_path: Path) -> None:
    database, watched = make(tmp_path)
    watched.commits = 0
    leads, may_go = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        leads.set()
        assert may_go.wait(10)

    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(database.transact, slow)
        assert leads.wait(10)
        others = [pool.submit(database.transact, add(number)) for number in range(10)]
        while len(database._queue) < 10:
            assert not any(other.done() for other in others)
        may_go.set()
        for call in (first, *others):
            call.result(10)
    assert watched.commits == 2
    assert numbers(database) == list(range(10))


def test_what_follows_a_change_runs_after_the_commit_and_before_the_answer(tmp_path: Path) -> None:
    database, watched = make(tmp_path)
    commits = watched.commits
    seen: list[tuple[int, int]] = []
    assert database.transact(lambda _: 7, then=lambda result: seen.append((result, watched.commits))) == 7
    assert seen == [(7, commits + 1)]


def test_a_full_disk_undoes_the_group_and_leaves_the_database_usable(tmp_path: Path) -> None:
    database, watched = make(tmp_path)
    undone: list[int] = []
    watched.fail_at = ("COMMIT", sqlite3.OperationalError("database or disk is full"))
    with pytest.raises(ServerBusyError, match="disk of the server's data directory is full"):
        database.transact(add(1), lambda: undone.append(1))
    watched.fail_at = None
    database.transact(add(2))
    assert (numbers(database), undone, database.failure) == ([2], [1], None)


def test_after_any_other_fault_everything_is_refused_until_a_new_start(tmp_path: Path) -> None:
    database, watched = make(tmp_path)
    told: list[str] = []
    database.on_failure = lambda: told.append("failed")
    watched.fail_at = ("COMMIT", sqlite3.OperationalError("disk I/O error"))
    for _ in range(2):
        with pytest.raises(TryAgainError, match="disk I/O error; nothing more is stored until the server was started"):
            database.transact(add(1))
        watched.fail_at = None
    assert told == ["failed"]
    watched.close()
    again, _ = make(tmp_path)
    assert numbers(again) == []


def test_a_fault_of_a_caller_is_the_callers_own(tmp_path: Path) -> None:
    database, _ = make(tmp_path)
    with pytest.raises(ZeroDivisionError):
        database.transact(lambda _: 1 / 0)
    database.transact(add(3))
    assert numbers(database) == [3]


def test_nothing_is_stored_after_the_end(tmp_path: Path) -> None:
    database, _ = make(tmp_path)
    told: list[str] = []
    database.on_failure = lambda: told.append("failed")
    database.close()
    with pytest.raises(TryAgainError, match="the server stops"):
        database.transact(add(1))
    assert told == []


def test_a_newer_version_and_other_programs_files_are_left_alone(tmp_path: Path) -> None:
    make(tmp_path, version=2)[0].close()
    before = (tmp_path / "state.db").read_bytes()
    with pytest.raises(ServerError, match=r"state\.db has version 2, and this server knows 1: .* nothing was changed"):
        make(tmp_path)
    assert (tmp_path / "state.db").read_bytes() == before
    (tmp_path / "other").mkdir()
    foreign = sqlite3.connect(tmp_path / "other" / "state.db")
    foreign.execute("CREATE TABLE theirs (x)")
    foreign.commit()
    foreign.close()
    before = (tmp_path / "other" / "state.db").read_bytes()
    with pytest.raises(ServerError, match="the database of another program"):
        make(tmp_path / "other")
    assert (tmp_path / "other" / "state.db").read_bytes() == before
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "state.db").write_bytes(b"this is no database at all, and long enough for a header" * 20)
    with pytest.raises(ServerError, match="not a database"):
        make(tmp_path / "third")
