"""The embedded default: a score server as a child on loopback, shared by the processes that use its state folder.

Whoever comes first, under an exclusive lock on `start.lock`, starts `infobatch serve`; the others find it by
`endpoint.json`, which is trusted only after the server behind it returned its nonce. Every user holds a shared lock
on `users.lock`; the server stops when it can have that lock alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from infobatch_client.score_client import ScoreClient
from infobatch_stream import errors
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["EmbeddedServer"]

_START_TIMEOUT_S = 60.0
_STALL_TIMEOUT_S = 30.0
_POLL_S = 0.05


class EmbeddedServer:
    """This process's hold on the embedded server of a state folder; released by `release` or with the process.

    Args:
        address: its gRPC address.
        http_address: its REST address.
        users_lock: the open lock file that keeps it alive.
    """

    def __init__(self, address: str, http_address: str, users_lock: IO[bytes]) -> None:
        self.address = address
        self.http_address = http_address
        self._users_lock = users_lock

    @classmethod
    def start(cls, state_dir: str | os.PathLike[str] | None = None) -> EmbeddedServer:
        """Finds the server of a state folder, or starts it.

        Raises:
            ConfigError: the folder can't be written.
            ServerError: the server did not start; the end of its log says why.
        """
        folder = Path(state_dir or ".infobatch").absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            users_lock = open(folder / "users.lock", "ab")  # noqa: SIM115 (held until release)
            start_lock = open(folder / "start.lock", "ab")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise errors.ConfigError(
                f"the embedded score server can't keep its state in {folder}: {error}; pass state_dir=, or url= of a "
                "server of your own"
            ) from error
        with start_lock:
            fcntl.flock(start_lock, fcntl.LOCK_EX)
            fcntl.flock(users_lock, fcntl.LOCK_SH)
            try:
                endpoint = _running(folder) or _launch(folder)
            except BaseException:
                users_lock.close()
                raise
        return cls(endpoint["grpc"], endpoint["http"], users_lock)

    def release(self) -> None:
        """Lets the server go; it stops by itself when its last user has."""
        self._users_lock.close()


def _running(folder: Path) -> dict[str, Any] | None:
    """The endpoint of a server that is up and is the one that wrote it; waits for one that has stalled."""
    try:
        endpoint: dict[str, Any] = json.loads((folder / "endpoint.json").read_text())
        address, nonce, pid = endpoint["grpc"], endpoint["nonce"], int(endpoint["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    client = ScoreClient(address, call_timeout_s=2.0)
    deadline = time.monotonic() + _STALL_TIMEOUT_S
    try:
        while True:
            try:
                return endpoint if client.call("GetServer", pb.GetServerRequest()).nonce == nonce else None
            except errors.ServerUnreachableError as error:
                # Refused: nobody there. Silent: it may come round.
                if not (error.timed_out and _is_alive(pid)) or time.monotonic() >= deadline:
                    return None
            except errors.ServerError:
                return None  # a port that is somebody else's by now
    finally:
        client.close()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _launch(folder: Path) -> dict[str, Any]:
    """Starts a server and waits until it answers; in a session of its own, so that Ctrl-C doesn't end it first."""
    endpoint = folder / "endpoint.json"
    log = folder / "server.log"
    command = [sys.executable, "-m", "infobatch_stream", "serve", "--data-dir", str(folder / "server")]
    command += ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    command += ["--endpoint-file", str(endpoint), "--exit-when-unused", str(folder / "users.lock")]
    with open(log, "ab") as out:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        if endpoint.exists() and (found := _running(folder)) is not None and found["pid"] == child.pid:
            # It may end long before this process or long after: waited for, or it would stay a zombie, and on a
            # daemon thread, or the interpreter would warn at its exit of a child that still runs.
            threading.Thread(target=child.wait, name="infobatch-embedded", daemon=True).start()
            return found
        time.sleep(_POLL_S)
    child.kill()
    child.wait()
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise errors.ServerError(f"the embedded score server did not start; the end of {log}:\n{tail}")
