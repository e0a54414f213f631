"""Refuses HTTP requests without a token, except those for health."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from infobatch_server.access.tokens import Tokens

__all__ = ["TokenCheck"]

_OPEN = frozenset({"/healthz", "/readyz"})


class TokenCheck:
    """ASGI middleware that answers 401 unless `Authorization` is "Bearer" and one of the server's tokens.

    HTTP only reads, so that a token with any scope will do. A token in the URL is never looked at.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards a request, or refuses it."""
        if scope["type"] != "http" or scope["path"] in _OPEN or self._allows(scope):
            await self._app(scope, receive, send)
            return
        detail = "this server needs a token of its own: send `Authorization: Bearer TOKEN`"
        refusal = JSONResponse({"detail": detail}, 401, {"WWW-Authenticate": "Bearer"})
        await refusal(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        headers = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
        return len(headers) == 1 and self._tokens.scope_of_header(headers[0]) is not None
