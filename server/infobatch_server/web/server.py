"""uvicorn in a thread, on a socket that is bound before it starts."""

from __future__ import annotations

import socket
import threading

import uvicorn
from starlette.types import ASGIApp

from infobatch_server.process.address import Address
from infobatch_stream.errors import ServerError

__all__ = ["HttpServer", "bind"]


def bind(address: Address) -> socket.socket:
    """A socket that listens on an address.

    Raises:
        ServerError: it is taken, or isn't this machine's.
    """
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise ServerError(f"can't listen on --http {address}: {error.strerror or error}") from error


class HttpServer:
    """Serves an application from a thread of its own.

    Args:
        app: the application.
        listening: from `bind`; closed by `stop`.
    """

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        self._listening = listening
        config = uvicorn.Config(
            app, log_config=None, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self.port: int = listening.getsockname()[1]

    def start(self) -> None:
        """Begins to answer; what connects before is answered then."""
        self._thread.start()

    def stop(self, grace_s: float) -> bool:
        """Ends; whether it did within `grace_s`."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(grace_s)
        self._listening.close()
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._server.run(sockets=[self._listening])
