"""The first contact with a score server: words while it keeps silent, and an error at once where none can answer."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from dataclasses import dataclass
from http.client import BadStatusLine

from infobatch_client.rpc.address import is_tls, without_scheme
from infobatch_client.rpc.credentials import Credentials
from infobatch_client.rpc.rest import get_json
from infobatch_stream import errors

__all__ = ["Finding", "FirstContact", "look_at"]

_WORD_AFTER_S = 2.0
_LOOK_TIMEOUT_S = 1.0
# What a client of HTTP/2 says first: its preface, and a frame of settings. A server answers with a frame of settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
_log = logging.getLogger(__name__)


class FirstContact:
    """The wait for the first answer of the server at `address`. For one thread.

    Args:
        address: "HOST:PORT", or "grpcs://HOST:PORT".
        timeout_s: how long the caller will try.
        credentials: for TLS.
    """

    def __init__(self, address: str, timeout_s: float, credentials: Credentials) -> None:
        self._address = address
        self._credentials = credentials
        self._started_s = time.monotonic()
        self._timeout_s = timeout_s
        self._word = ""
        self.reason = ""

    @property
    def call_timeout_s(self) -> float:
        """How long the next call may last, for the first word to come in time."""
        return float("inf") if self._word else _WORD_AFTER_S - _LOOK_TIMEOUT_S

    def failed(self, error: errors.TryAgainError) -> None:
        """Looks at the address after a call that failed; says what keeps the server, a line of log for each reason.

        Raises:
            ConfigError: a program that is no score server listens there, so that waiting can't help.
        """
        if self.reason and not self._is_due():
            return
        is_busy = isinstance(error, errors.ServerBusyError)
        finding = Finding(str(error)) if is_busy else look_at(self._address, self._credentials)
        self.reason = finding.words or str(error)
        if finding.is_final:
            raise errors.ConfigError(f"url={self._address!r} is no score server's gRPC address: {finding.words}")
        left_s = self._timeout_s - (time.monotonic() - self._started_s)
        if self._is_due() and self.reason != self._word and left_s > 0:
            self._word = self.reason
            _log.warning("no answer from %s yet: %s; trying for another %.0f s", self._address, self.reason, left_s)

    def _is_due(self) -> bool:
        return time.monotonic() - self._started_s >= _WORD_AFTER_S - 0.4  # the next call may be a second away


@dataclass(frozen=True)
class Finding:
    """What an address shows of itself.

    Args:
        words: for people; "" if nothing is wrong with the address itself.
        is_final: whether no score server can be behind it, so that waiting can't help.
    """

    words: str
    is_final: bool = False


def look_at(address: str, credentials: Credentials, timeout_s: float = _LOOK_TIMEOUT_S) -> Finding:
    """Why the server at `address` ("HOST:PORT", or "grpcs://HOST:PORT") doesn't answer a call.

    Speaks as a client of gRPC does, so that a port with several protocols counts as one with gRPC.
    """
    target = without_scheme(address)
    host, _, port = target.rpartition(":")
    host = host.strip("[]")
    try:
        with socket.create_connection((host, int(port)), timeout_s) as connection:
            connection.settimeout(timeout_s)
            if is_tls(address):
                return _look_at_tls(connection, host, credentials)
            return _of_answer(target, _answer(connection))
    except socket.gaierror as error:
        return Finding(f"the name {host!r} is not known here ({error.strerror})")
    except UnicodeError:
        return Finding(f"{host!r} is no valid name of a host", is_final=True)
    except TimeoutError:
        return Finding("nobody answers there (is the address right, and does a firewall let it through?)")
    except OSError as error:
        return Finding((error.strerror or str(error)).lower())


def _answer(connection: socket.socket, num_bytes: int = 9) -> bytes | None:
    """The first bytes that the server sends; None if it keeps silent."""
    got = b""
    try:
        connection.sendall(_PREFACE)
        while len(got) < num_bytes and (part := connection.recv(512)):
            got += part
    except TimeoutError:
        return got or None
    except OSError:  # cut off
        pass
    return got


def _of_answer(address: str, answer: bytes | None) -> Finding:
    if answer is None:
        return Finding("it takes the connection and keeps silent")
    if len(answer) >= 9 and answer[3] == _SETTINGS:
        return Finding("")
    if answer[:1] == b"\x15" or _speaks_tls(address):
        return Finding(
            f"it speaks TLS, and this client connects without; give 'grpcs://{address}' and, unless a public authority "
            "has signed its certificate, Connection(ca=…)",
            is_final=True,
        )
    if not answer:
        return Finding("it takes the connection and closes it")
    if (words := _of_http(address)) is not None:
        return Finding(words, is_final=True)
    return Finding(f"another program answers there; its first bytes are {answer[:24]!r}", is_final=True)


def _look_at_tls(connection: socket.socket, host: str, credentials: Credentials) -> Finding:
    """Why the server at the other end of a connection doesn't answer a call over TLS."""
    try:
        secure = credentials.ssl_context().wrap_socket(connection, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        remedy = "" if "expired" in error.verify_message else "; is ca= the authority that has signed it?"
        return Finding(f"its certificate is not to be trusted: {error.verify_message}{remedy}")
    except ssl.SSLError as error:
        return Finding(f"it doesn't speak TLS ({error.reason or error}); without, its address is 'HOST:PORT'")
    with secure:
        if _answer(secure) == b"":  # in TLS 1.3, a server looks at the client's certificate after the handshake
            return Finding("it wants a client certificate, or another one: give client_cert= and client_key=")
    return Finding("")


def _speaks_tls(address: str) -> bool:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, int(port)), _LOOK_TIMEOUT_S) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # a TLS server that wants something else of its clients
    except (OSError, ValueError):
        return False


def _of_http(address: str) -> str | None:
    """Words for a port that speaks HTTP/1; None for another one."""
    try:
        found = get_json(address, "/v1/server", timeout_s=_LOOK_TIMEOUT_S)
    except errors.ServerUnreachableError:
        return None
    except errors.ServerError as error:
        if isinstance(error.__cause__, BadStatusLine):
            return None
        found = None
    grpc = found.get("grpc") if isinstance(found, dict) else None
    if not isinstance(grpc, str):
        return "it speaks HTTP/1, not gRPC; give the address of `infobatch serve --grpc HOST:PORT`"
    host, port = address.rpartition(":")[0], grpc.rpartition(":")[2]
    return f"it is the REST address of a score server; give the one of its gRPC port, such as url='{host}:{port}'"
