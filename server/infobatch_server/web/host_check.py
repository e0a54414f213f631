"""Refuses HTTP requests that reached loopback under another name: a page in a browser that rebinds its DNS."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["HostCheck"]

_OWN = frozenset({"localhost", "127.0.0.1", "[::1]"})


class HostCheck:
    """ASGI middleware: status 400 unless `Host` is a name of loopback, with any port."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http" or _is_own(scope):
            await self._app(scope, receive, send)
            return
        refusal = JSONResponse({"detail": "Host must be localhost, 127.0.0.1 or [::1] on this address"}, 400)
        await refusal(scope, receive, send)


def _is_own(scope: Scope) -> bool:
    hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1:
        return False
    name, colon, port = hosts[0].rpartition(":")
    return hosts[0] in _OWN or (bool(colon) and port.isdigit() and name in _OWN)
