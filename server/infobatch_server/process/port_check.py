"""Whether a server can listen on an address: tried before gRPC does, which gives its reasons in a log of its own."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from infobatch_server.process.address import Address
from infobatch_stream.errors import ServerError

__all__ = ["check_can_listen"]

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_ANY = ("::", "0.0.0.0")


def check_can_listen(address: Address, option: str) -> None:
    """Listens for a moment on an address, or on each that a name has.

    gRPC is content with one address of a name: with port 50051 of 127.0.0.1 taken, `localhost:50051` would be [::1]
    alone, and clients would reach the other server.

    Args:
        address: of port 0, which is always free, only the host is tried.
        option: the option, for messages.

    Raises:
        ServerError: the address is taken, isn't one of this machine, or isn't allowed.
    """
    missing: OSError | None = None
    is_here = False
    try:
        for family, place in _places(address):
            try:
                _listen(family, place)
                is_here = True
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error  # such as localhost's ::1 on a machine without IPv6
        if not is_here and missing is not None:
            raise missing
    except OSError as error:
        known = error.errno is not None and not isinstance(error, socket.gaierror)
        reason = os.strerror(error.errno or 0) if known else error.strerror
        raise ServerError(
            f"can't listen on {option} {address}: {reason}; choose another address, or port 0 for any free port"
        ) from error


def _places(address: Address) -> list[tuple[int, Any]]:
    if address.host in _ANY and socket.has_dualstack_ipv6():
        return [(socket.AF_INET6, ("::", address.port))]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return [(family, place) for family, _, _, _, place in found]


def _listen(family: int, place: Any) -> None:
    is_both = family == socket.AF_INET6 and place[0] == "::" and socket.has_dualstack_ipv6()
    socket.create_server(place, family=family, dualstack_ipv6=is_both).close()
