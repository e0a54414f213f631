"""Refuses HTTP requests to loopback under another host name: web pages send them after DNS rebinding."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["HostCheck"]

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class HostCheck:
    """ASGI middleware that answers 400 unless `Host` is a loopback name, with any port."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards a request, or refuses it."""
        if scope["type"] != "http" or _names_loopback(scope):
            await self._app(scope, receive, send)
            return
        refusal = JSONResponse({"detail": "Host must be localhost, 127.0.0.1 or [::1] on this address"}, 400)
        await refusal(scope, receive, send)


def _names_loopback(scope: Scope) -> bool:
    hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1:
        return False
    name, colon, port = hosts[0].rpartition(":")
    return hosts[0] in _LOOPBACK_NAMES or (bool(colon) and port.isdigit() and name in _LOOPBACK_NAMES)
