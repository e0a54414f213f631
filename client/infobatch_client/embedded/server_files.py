"""The files in the state folder of an embedded server, and whether a server runs there."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infobatch_client.rpc.credentials import Credentials
from infobatch_client.rpc.secret import Secret

__all__ = ["ServerFiles", "credentials_of"]


@dataclass(frozen=True)
class ServerFiles:
    """The files of one embedded server.

    Args:
        path: the folder of its state.
    """

    path: Path

    @property
    def users_lock(self) -> Path:
        """Locked by every user of the server."""
        return self.path / "users.lock"

    @property
    def endpoint(self) -> Path:
        """Says where the server is; may be left over from an earlier one."""
        return self.path / "endpoint.json"

    @property
    def log(self) -> Path:
        """The server's output."""
        return self.path / "server.log"

    @property
    def data(self) -> Path:
        """The server's own folder."""
        return self.path / "server"

    def has_server(self) -> bool:
        """Whether a server holds the data's lock: up, starting, stalled or about to end."""
        try:
            handle = os.open(self.data / "server.lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # no locks here; a server that tries to start says so
        finally:
            os.close(handle)
        return False

    def address(self, kind: str) -> tuple[str, Credentials] | None:
        """An address of the server that runs here, and its token; None if none runs, or it is still starting.

        Args:
            kind: "grpc" or "http", the address for training jobs or for statistics.
        """
        if not self.has_server():
            return None
        try:
            endpoint = json.loads(self.endpoint.read_text())
            return str(endpoint[kind]), credentials_of(endpoint)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def last_address(self) -> str | None:
        """The address of a server that didn't end by itself and left it here, if nobody listens there; else None."""
        try:
            address = str(json.loads(self.endpoint.read_text())["grpc"])
            host, _, port = address.rpartition(":")
            if host != "127.0.0.1":
                return None
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, int(port)))
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None
        return address

    def log_end(self) -> str:
        """The last lines of the log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError as error:
            return f"({error})"
        return "\n".join(lines[-15:])


def credentials_of(endpoint: Mapping[str, object]) -> Credentials:
    """The token in what endpoint.json says."""
    token = endpoint.get("token")
    is_one = isinstance(token, str) and token.isascii() and token.isprintable()
    return Credentials(token=Secret(str(token) if is_one else ""))
