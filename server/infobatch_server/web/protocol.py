"""HTTP connections that can't be held open: each has a time for its next request, and there is a most of them."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["BoundedProtocol"]


class BoundedProtocol(H11Protocol):
    """Cuts a connection off that takes too long for a request and its answer, headers and body included.

    Args:
        request_s: seconds from the connection, or from the answer before, to the end of the next answer.
        max_connections: with more, the one whose time is up first is cut off.
        options: uvicorn's.
    """

    def __init__(self, *, request_s: float, max_connections: int, **options: Any) -> None:
        super().__init__(**options)
        self._request_s = request_s
        self._max_connections = max_connections
        self._timer: asyncio.TimerHandle | None = None

    @property
    def cut_off_at(self) -> float:
        """When the connection is cut off, in the loop's time."""
        return self._timer.when() if self._timer else 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the time of the first request."""
        super().connection_made(transport)
        self._restart()
        if len(self.connections) > self._max_connections:
            oldest = min((each for each in self.connections if isinstance(each, BoundedProtocol)), key=_cut_off_at)
            oldest.cut_off()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the time."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Starts the time of the next request."""
        self._restart()
        super().on_response_complete()

    def cut_off(self) -> None:
        """Closes the connection without an answer."""
        self.connections.discard(self)
        self.transport.abort()

    def _restart(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self._request_s, self.cut_off)


def _cut_off_at(connection: BoundedProtocol) -> float:
    return connection.cut_off_at
