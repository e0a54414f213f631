"""The store's SQLite database: one connection, and one fsync for the changes of many threads."""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from infobatch_stream.errors import ServerBusyError, ServerError, TryAgainError

__all__ = ["DISK_IS_FULL", "Connect", "Connection", "Database", "connect_sqlite"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_APPLICATION_ID = 0x49425331  # "IBS1"
_PAGE_BYTES = 16384
_ALONE = "PRAGMA locking_mode=EXCLUSIVE"
"""Before the first read, so that SQLite keeps the WAL's index in this process's memory, and nobody else gets in."""
_PRAGMAS = (
    f"PRAGMA page_size={_PAGE_BYTES}",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    # Zeros over deleted scores would double what a freed journal writes.
    "PRAGMA secure_delete=OFF",
    "PRAGMA wal_autocheckpoint=0",
)
_AGAIN = "nothing more is stored until the server was started again, which recovers all that was acknowledged"
DISK_IS_FULL = "the disk of the server's data directory is full; nothing is lost: make room, and send this again"


class Connection(Protocol):
    """What the store uses of a connection to SQLite, in autocommit mode; errors are `sqlite3.Error`."""

    def execute(self, sql: str, parameters: Any = (), /) -> Iterable[tuple[Any, ...]]:
        """Executes a statement; its rows."""

    def close(self) -> None:
        """Closes the connection."""


Connect = Callable[[Path], Connection]


def connect_sqlite(path: Path) -> Connection:
    """A connection of Python's sqlite3 that any thread may use, one at a time."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def _nothing() -> None:
    pass


@dataclass(eq=False)
class _Work:
    """A thread's work with the connection, and the gate at which the thread waits for it."""

    do: Callable[[Connection], Any]
    undo: Callable[[], None] = _nothing
    then: Callable[[Any], None] | None = None
    is_alone: bool = False
    leads: bool = False
    result: Any = None
    error: BaseException | None = None
    gate: Any = field(default_factory=threading.Lock)


class Database:
    """One connection, used by one thread at a time. Safe to call from many threads.

    The first thread that comes leads: it makes its own change and those of all threads that have come since, commits
    them with one fsync, and passes the lead on.

    A disk that is full undoes the whole group; everything may be tried again. After any other fault of the disk
    nothing is known about what it holds: every later call is refused, until a new process has recovered.

    Args:
        path: the database's file; made if it isn't there.
        version: of the schema.
        schema: the statements that make it.
        connect: makes the connection.

    Raises:
        ServerError: the file is no database of this kind, of a newer version, damaged or locked.
    """

    def __init__(self, path: Path, *, version: int, schema: Iterable[str], connect: Connect = connect_sqlite) -> None:
        self.path = path
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = _nothing
        self._mutex = threading.Lock()
        self._queue: list[_Work] = []
        self._is_led = False
        self._is_closed = False
        try:
            self._connection = connect(path)
            try:
                self._open(version, schema)
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.Error as error:
            raise ServerError(
                f"{path}: {error}. If another process has it open, end that process; if the disk is full, make room; "
                "otherwise the file is damaged: put it back from a copy of the whole data directory"
            ) from error

    def transact(
        self,
        change: Callable[[Connection], T],
        undo: Callable[[], None] = _nothing,
        then: Callable[[T], None] | None = None,
    ) -> T:
        """Makes a change in a transaction; returns its result once it is durable.

        Args:
            change: executes statements, also those of other threads before and after it in the same transaction.
            undo: called if the transaction fails after `change` was called.
            then: called with the result once it is durable, by whichever thread has led, so that this one need not
                wake up for it. The next thread may lead already: `then` may wait for locks that callers hold.

        Raises:
            ServerBusyError: the disk is full; nothing has changed.
            TryAgainError: the disk has failed, now or before.
        """
        result: T = self._await(_Work(change, undo, then))
        return result

    def alone(self, work: Callable[[Connection], T]) -> T:
        """Does work outside of transactions, while no other thread uses the connection."""
        result: T = self._await(_Work(work, is_alone=True))
        return result

    def checkpoint(self) -> None:
        """Moves what the WAL holds into the database, and cuts the WAL down to nothing."""
        self.alone(lambda connection: list(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")))

    def fail(self, error: BaseException) -> None:
        """Refuses every later call: it isn't known any more what the disk holds."""
        if self.failure is None:
            self.failure = error
            log.critical("%s: %s; %s", self.path, error, _AGAIN)
            self.on_failure()

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Turns the errors of file operations beside the database into those of `transact`.

        Raises:
            ServerBusyError: the disk is full.
            TryAgainError: the disk has failed; nothing more is stored here either.
        """
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ServerBusyError(DISK_IS_FULL) from error
            self.fail(error)
            raise TryAgainError(f"{error}; {_AGAIN}") from error

    @property
    def wal_bytes(self) -> int:
        """Size of the WAL."""
        try:
            return self.path.with_name(self.path.name + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """Closes the connection, after all work that was begun; later work is refused."""

        def close(connection: Connection) -> None:
            self._is_closed = True
            connection.close()

        self.alone(close)

    def _await(self, work: _Work) -> Any:
        work.gate.acquire()
        with self._mutex:
            self._queue.append(work)
            leads, self._is_led = not self._is_led, True
        if not leads:
            work.gate.acquire()
            leads = work.leads
        if leads:
            self._lead()
        if work.error is not None:
            raise work.error
        return work.result

    def _lead(self) -> None:
        with self._mutex:
            group = self._next_group()
        try:
            if group[0].is_alone:
                self._work_alone(group[0])
            else:
                self._commit(group)
        finally:
            with self._mutex:
                following = self._queue[0] if self._queue else None
                self._is_led = following is not None
            if following is not None:
                following.leads = True
                following.gate.release()
        for work in group:
            if work.then is None and work is not group[0]:
                work.gate.release()
        for work in group:
            if work.then is None:
                continue
            try:
                if work.error is None:
                    work.then(work.result)
            except BaseException as error:
                work.error = error
            if work is not group[0]:
                work.gate.release()

    def _next_group(self) -> list[_Work]:
        """Takes the leader's work off the queue, and all that can be committed with it."""
        count = 1
        if not self._queue[0].is_alone:
            while count < len(self._queue) and not self._queue[count].is_alone:
                count += 1
        group, self._queue = self._queue[:count], self._queue[count:]
        return group

    def _work_alone(self, work: _Work) -> None:
        try:
            self._check()
            work.result = work.do(self._connection)
        except BaseException as error:
            work.error = self._explained(error)

    def _commit(self, group: list[_Work]) -> None:
        begun: list[_Work] = []
        try:
            self._check()
            self._connection.execute("BEGIN IMMEDIATE")
            for work in group:
                begun.append(work)
                work.result = work.do(self._connection)
            self._connection.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):  # SQLite may have done so by itself
                self._connection.execute("ROLLBACK")
            for work in reversed(begun):
                work.undo()
            for work in group:
                work.error = self._explained(error)

    def _check(self) -> None:
        if self._is_closed:
            raise TryAgainError("the server stops, and stores nothing more")
        if self.failure is not None:
            raise TryAgainError(f"{self.path}: {self.failure}; {_AGAIN}") from self.failure

    def _explained(self, error: BaseException) -> BaseException:
        if not isinstance(error, sqlite3.Error):
            return error
        explained: BaseException
        if _is_full(error):
            explained = ServerBusyError(DISK_IS_FULL)
        else:
            self.fail(error)
            explained = TryAgainError(f"{self.path}: {error}; {_AGAIN}")
        explained.__cause__ = error
        return explained

    def _open(self, version: int, schema: Iterable[str]) -> None:
        list(self._connection.execute(_ALONE))
        is_new = self._check_version(version)
        for pragma in _PRAGMAS:
            list(self._connection.execute(pragma))
        if is_new:
            self._make(version, schema)

    def _check_version(self, version: int) -> bool:
        """Whether the file is a new one; nothing is changed before it is known to be ours."""
        found, application_id, tables = (
            next(iter(self._connection.execute(query)))[0]
            for query in ("PRAGMA user_version", "PRAGMA application_id", "SELECT count(*) FROM sqlite_master")
        )
        if not (found or application_id or tables):
            return True
        if application_id != _APPLICATION_ID:
            raise ServerError(f"{self.path} is the database of another program; use another data directory")
        if found != version:
            raise ServerError(
                f"{self.path} has version {found}, and this server knows {version}: start the infobatch-stream that "
                "wrote it, or a newer one; nothing was changed"
            )
        return False

    def _make(self, version: int, schema: Iterable[str]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        for statement in schema:
            self._connection.execute(statement)
        self._connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
        self._connection.execute(f"PRAGMA user_version={version}")
        self._connection.execute("COMMIT")


def _is_full(error: sqlite3.Error) -> bool:
    # Python 3.10 gives no code.
    return getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" or "disk is full" in str(error)
