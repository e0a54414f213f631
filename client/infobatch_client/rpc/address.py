"""Checks the address of a score server that a user passes."""

from __future__ import annotations

import re

from infobatch_stream.errors import ConfigError

__all__ = ["check_url"]

_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]):(?P<port>\d{1,5})")


def check_url(url: object) -> str:
    """`url`, if it is "HOST:PORT" ("[::1]:PORT" for IPv6).

    Raises:
        ConfigError: it has another form; the message says which.
    """
    match = _ADDRESS.fullmatch(url) if isinstance(url, str) else None
    if match is None or not 0 < int(match["port"]) < 65536:
        hint = "without a scheme" if isinstance(url, str) and "://" in url else "of `infobatch serve --grpc HOST:PORT`"
        raise ConfigError(f"url={url!r} is no gRPC address; give 'HOST:PORT', {hint}, or '[::1]:PORT' for IPv6")
    return match[0]
