"""Refuses HTTP requests under another host name than the server's: web pages send them after DNS rebinding."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["HostCheck"]

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class HostCheck:
    """ASGI middleware that answers 400 unless `Host` is one of the server's names, with any port.

    Beyond loopback, these are also the machine's own name and every IP address, under which no page of another site
    can call.

    Args:
        app: the application.
        loopback: the server listens on loopback only.
        hosts: further names and IP addresses, such as that at which the server listens.
        certified: the names in the certificate, as of now; "*.example.org" stands for one more label.
    """

    def __init__(
        self, app: ASGIApp, *, loopback: bool, hosts: Iterable[str] = (), certified: Callable[[], Iterable[str]] = tuple
    ) -> None:
        self._app = app
        self._takes_addresses = not loopback
        self._names = {*_LOOPBACK_NAMES, *map(_as_host, hosts)}
        if not loopback:
            self._names.add(socket.gethostname().lower())
        self._certified = certified

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards a request, or refuses it."""
        if scope["type"] != "http" or self._is_own(_name(scope)):
            await self._app(scope, receive, send)
            return
        detail = (
            "Host is none of this server's names, which are localhost, 127.0.0.1, [::1], those in its certificate and "
            "those of `infobatch serve --http-host NAME`"
        )
        await JSONResponse({"detail": detail}, 400)(scope, receive, send)

    def _is_own(self, name: str | None) -> bool:
        if name is None:
            return False
        if name in self._names or (self._takes_addresses and _is_address(name)):
            return True
        return any(_matches(name, _as_host(certified)) for certified in self._certified())


def _name(scope: Scope) -> str | None:
    """The host in the only `Host` header, in lower case and without a port."""
    hosts: list[str] = [value.decode("latin-1").lower() for key, value in scope["headers"] if key == b"host"]
    if len(hosts) != 1:
        return None
    name, colon, port = hosts[0].rpartition(":")
    return name if colon and port.isascii() and port.isdigit() else hosts[0]


def _as_host(name: str) -> str:
    """A name or an IP address as it stands in `Host`."""
    bare = name.strip("[]").lower()
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return bare
    return f"[{address}]" if address.version == 6 else str(address)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _matches(name: str, certified: str) -> bool:
    if certified.startswith("*."):
        label, _, rest = name.partition(".")
        return bool(label) and rest == certified[2:]
    return name == certified
