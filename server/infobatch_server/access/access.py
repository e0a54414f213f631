"""What guards a server: its tokens, its certificate, and the names under which it is called."""

from __future__ import annotations

from dataclasses import dataclass

from infobatch_server.access.certificates import Certificates
from infobatch_server.access.tokens import Tokens

__all__ = ["Access"]


@dataclass(frozen=True, kw_only=True)
class Access:
    """What guards a server; by default nothing does.

    Args:
        tokens: every call needs one of these; None: calls need none.
        certificates: for TLS on every port; None: plain text.
        http_hosts: further names that the `Host` of an HTTP request may be.
    """

    tokens: Tokens | None = None
    certificates: Certificates | None = None
    http_hosts: tuple[str, ...] = ()
