"""The embedded default: a score server as a child on loopback, shared by the processes that use its state folder.

The first process, under an exclusive lock on `start.lock`, starts `infobatch serve`; the others find it by
`endpoint.json`, which is trusted only while a server holds the lock of the folder's data and after the server at that
address has returned the nonce. Only its user can read that file, and it holds the token without which the server
answers nobody. Every user holds a shared lock on `users.lock`; the server stops once it can take that lock exclusively.
`server.log` beside them is the server's.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from infobatch_client.embedded.process import ServerProcess
from infobatch_client.embedded.server_files import ServerFiles, credentials_of
from infobatch_client.embedded.state_folder import state_folder
from infobatch_client.rpc.client import ScoreClient
from infobatch_client.rpc.credentials import Credentials
from infobatch_stream import errors
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.version import __version__

__all__ = ["EmbeddedServer"]

_START_TIMEOUT_S = 60.0
_CALL_TIMEOUT_S = 2.0
_POLL_S = 0.05


class EmbeddedServer:
    """This process's hold on the embedded server of a state folder; released by `release` or with the process.

    Attributes:
        folder: of its state.
        log: its log file.
        address: its gRPC address.
        http_address: its REST address.
        credentials: its token.
        pid: its process.
    """

    def __init__(self, folder: ServerFiles, endpoint: dict[str, Any], users_lock: IO[bytes]) -> None:
        self.folder = folder.path
        self.log = folder.log
        self._files = folder
        self._users_lock = users_lock
        self._meet(endpoint)

    @classmethod
    def start(cls, state_dir: str | os.PathLike[str] | None = None) -> EmbeddedServer:
        """Finds the server of a state folder, or starts it. From several processes at once, one of them starts it.

        Args:
            state_dir: the folder; ./.infobatch by default. On a network file system, a local one takes its place.

        Raises:
            ConfigError: the folder can't be written, or there is no local one.
            ServerError: the server did not start, keeps silent, or is of another version than this client.
        """
        folder = ServerFiles(state_folder(state_dir))
        try:
            users_lock = open(folder.users_lock, "ab")  # noqa: SIM115 (open until release)
        except OSError as error:
            raise _unusable(folder.path, error) from error
        try:
            with _electing(folder):
                _take(users_lock, fcntl.LOCK_SH, "its server, which is about to end,")
                return cls(folder, _find_or_start(folder), users_lock)
        except BaseException:
            users_lock.close()
            raise

    def _meet(self, endpoint: dict[str, Any]) -> None:
        self.address = str(endpoint["grpc"])
        self.http_address = str(endpoint["http"])
        self.pid = int(endpoint["pid"])
        self._nonce = str(endpoint["nonce"])
        self.credentials = credentials_of(endpoint)
        self._process = ServerProcess(self.pid, str(self._files.users_lock))

    @property
    def alive(self) -> bool:
        """Whether the server of this object still runs.

        Cheap, unless its process can't be seen from here: then it calls the server, for at most 2 s.
        """
        seen = self._process.alive
        return _nonce_at(self.address, self.credentials) == self._nonce if seen is None else seen

    def revive(self) -> bool:
        """Starts the server again if it has ended, at its address, unless another process has; whether it had ended.

        It recovers its runs from the folder. Several processes may call this at once.

        Raises:
            ConfigError, ServerError: as `start`.
        """
        if self.alive:
            return False
        with _electing(self._files):
            endpoint = _find_or_start(self._files)
        self._process.close()
        self._meet(endpoint)
        return True

    def release(self) -> None:
        """Releases the server, which stops by itself once its last user has released it."""
        self._users_lock.close()
        self._process.close()


@contextmanager
def _electing(folder: ServerFiles) -> Iterator[None]:
    """Holds the lock under which a folder's server is looked for and started."""
    try:
        start_lock = open(folder.path / "start.lock", "ab")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise _unusable(folder.path, error) from error
    with start_lock:
        _take(start_lock, fcntl.LOCK_EX, "a program that starts its server")
        try:
            yield
        finally:
            # Closing would not release the lock if another thread has forked meanwhile.
            fcntl.flock(start_lock, fcntl.LOCK_UN)


def _take(file: IO[bytes], kind: int, holder: str) -> None:
    """Takes a lock, which others normally hold for less time than a start may take."""
    deadline = time.monotonic() + 2 * _START_TIMEOUT_S
    while True:
        try:
            return fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise errors.ServerError(
                    f"{holder} has held {file.name} for {2 * _START_TIMEOUT_S:.0f} s: is it stopped? "
                    "End it, or pass another state_dir="
                ) from None
        except OSError as error:
            raise _unusable(Path(file.name).parent, error) from error
        time.sleep(_POLL_S)


def _unusable(path: Path, error: OSError) -> errors.ConfigError:
    return errors.ConfigError(
        f"the embedded score server can't keep its state in {path}: {error}; pass state_dir=, or url= of a server of "
        "your own"
    )


def _find_or_start(folder: ServerFiles) -> dict[str, Any]:
    """The endpoint of the folder's server. Called under the start lock.

    If the data isn't locked there is no server, whatever endpoint.json says. If it is, there is one, which may still be
    starting even though the process that started it has ended.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        endpoint = _running(folder) if folder.has_server() else _launch(folder, deadline)
        if endpoint is not None:
            return endpoint
        if time.monotonic() >= deadline:
            raise errors.ServerError(
                f"the embedded score server of {folder.path} (pid {_owner(folder)}) runs, and has not answered for "
                f"{_START_TIMEOUT_S:.0f} s: end it, or pass another state_dir=; the end of {folder.log}:\n"
                f"{folder.log_end()}"
            )
        time.sleep(_POLL_S)


def _running(folder: ServerFiles) -> dict[str, Any] | None:
    """The endpoint of a server that answers and is the one that wrote it.

    Raises:
        ServerError: it is of another version.
    """
    try:
        endpoint: dict[str, Any] = json.loads(folder.endpoint.read_text())
        address, nonce, _ = str(endpoint["grpc"]), str(endpoint["nonce"]), (int(endpoint["pid"]), endpoint["http"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if _nonce_at(address, credentials_of(endpoint)) != nonce:
        return None
    version = endpoint.get("version")
    if version != __version__:
        raise errors.ServerError(
            f"the embedded score server of {folder.path} (pid {endpoint['pid']}) is version {version}, and this client "
            f"is version {__version__}: end the programs that use it, which ends it too, or pass another state_dir="
        )
    return endpoint


def _nonce_at(address: str, credentials: Credentials) -> str | None:
    """The nonce of the score server there; None if there is none, or another program, or no answer."""
    client = ScoreClient(address, call_timeout_s=_CALL_TIMEOUT_S, credentials=credentials)
    try:
        return str(client.get_server(pb.GetServerRequest()).nonce)
    except errors.InfoBatchError:
        return None
    finally:
        client.close()


def _launch(folder: ServerFiles, deadline: float) -> dict[str, Any] | None:
    """Starts a server and waits until it answers; None if another one has locked the data meanwhile.

    It runs in a session of its own, so that Ctrl-C doesn't end it before the last flush. One that follows a server
    that was killed takes its address, at which the programs that use it look for it.
    """
    command = [sys.executable, "-m", "infobatch_stream", "serve", "--data-dir", str(folder.data)]
    command += ["--grpc", folder.last_address() or "127.0.0.1:0", "--http", "127.0.0.1:0"]
    command += ["--endpoint-file", str(folder.endpoint), "--private", "--exit-when-unused", str(folder.users_lock)]
    try:
        with open(folder.log, "ab") as out:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
    except OSError as error:
        raise _unusable(folder.path, error) from error
    started = False
    try:
        while child.poll() is None and time.monotonic() < deadline:
            endpoint = _running(folder)
            if endpoint is not None and endpoint["pid"] == child.pid:
                started = True
                return endpoint
            time.sleep(_POLL_S)
    finally:
        if started:
            # It may end long before this process or long after. Without a wait it would stay a zombie; without the
            # daemon thread the interpreter would warn at its exit about a running child.
            threading.Thread(target=child.wait, name="infobatch-embedded", daemon=True).start()
        else:
            child.kill()
            child.wait()
    if folder.has_server():
        return None
    raise errors.ServerError(f"the embedded score server did not start; the end of {folder.log}:\n{folder.log_end()}")


def _owner(folder: ServerFiles) -> str:
    try:
        return (folder.data / "server.lock").read_text().strip() or "unknown"
    except OSError:
        return "unknown"
