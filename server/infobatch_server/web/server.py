"""Runs uvicorn in a thread, on a socket that is bound beforehand."""

from __future__ import annotations

import socket
import ssl
import threading
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from infobatch_server.process.address import Address
from infobatch_server.web.protocol import BoundedProtocol
from infobatch_stream.errors import ServerError

__all__ = ["HttpServer", "bind"]


def bind(address: Address) -> socket.socket:
    """Creates a socket that listens on an address.

    Raises:
        ServerError: the address is in use, or is not one of this machine.
    """
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise ServerError(f"can't listen on --http {address}: {error.strerror or error}") from error


class HttpServer:
    """Serves an application in its own thread.

    Args:
        app: the application.
        listener: a socket from `bind`; `stop` closes it.
        tls: for HTTPS; None for plain text.
        request_s: seconds that a connection has for a request and its answer.
        max_connections: with more, the one whose time is up first is cut off.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        tls: ssl.SSLContext | None = None,
        request_s: float = 30.0,
        max_connections: int = 512,
    ) -> None:
        self._listener = listener
        protocol: Any = partial(BoundedProtocol, request_s=request_s, max_connections=max_connections)
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        config.load()
        config.ssl = tls
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self.port: int = listener.getsockname()[1]

    def start(self) -> None:
        """Starts to answer requests, those that connected earlier included."""
        self._thread.start()

    def stop(self, grace_s: float) -> bool:
        """Stops the server; returns whether it stopped within `grace_s` seconds."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(grace_s)
        self._listener.close()
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])
