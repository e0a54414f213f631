"""Checks the address of a score server that a user passes, and takes it apart."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from infobatch_stream.errors import ConfigError

__all__ = ["check_url", "host_of", "is_tls", "without_scheme"]

_TLS = "grpcs://"
_ADDRESS = re.compile(rf"(?:{_TLS})?(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]):(?P<port>\d{{1,5}})")


def check_url(url: object) -> str:
    """`url`, if it is "HOST:PORT" ("[::1]:PORT" for IPv6), or "grpcs://HOST:PORT" for TLS.

    Raises:
        ConfigError: it has another form; the message says which.
    """
    match = _ADDRESS.fullmatch(url) if isinstance(url, str) else None
    if match is None or not 0 < int(match["port"]) < 65536:
        has_scheme = isinstance(url, str) and "://" in url
        hint = "without a scheme" if has_scheme else "of `infobatch serve --grpc HOST:PORT`"
        if isinstance(url, str) and "@" in url:
            url = "…@" + url.rpartition("@")[2]
            hint = "and the token in Connection(token_file=…), never in a URL"
        raise ConfigError(
            f"url={url!r} is no gRPC address; give 'HOST:PORT', {hint}, or '[::1]:PORT' for IPv6; or "
            f"'{_TLS}HOST:PORT' for TLS"
        )
    return match[0]


def is_tls(address: str) -> bool:
    """Whether an address, checked, is one with TLS: "grpcs://…", or "https://…" for REST."""
    return address.startswith((_TLS, "https://"))


def without_scheme(address: str) -> str:
    """HOST:PORT of a gRPC address."""
    return address.removeprefix(_TLS)


def host_of(address: str) -> str:
    """The host of an address, an IPv6 one without brackets."""
    return urlsplit(address if "://" in address else f"//{address}").hostname or ""
