"""What a client shows a score server, and whom it trusts: a token, an authority, a certificate of its own."""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import grpc

from infobatch_client.rpc.address import host_of, is_tls, without_scheme
from infobatch_client.rpc.secret import Secret
from infobatch_client.rpc.token_file import checked_token, newest_token
from infobatch_stream.errors import ConfigError

__all__ = ["TOKEN_FILE_VARIABLE", "TOKEN_VARIABLE", "Credentials", "FilePath"]

TOKEN_VARIABLE = "INFOBATCH_TOKEN"
TOKEN_FILE_VARIABLE = "INFOBATCH_TOKEN_FILE"

FilePath: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What is shown to a server, and whom the client trusts. Immutable; the files are read when they are needed.

    Args:
        token: the token; None takes that of `token_file`, else INFOBATCH_TOKEN's, else that of the file that
            INFOBATCH_TOKEN_FILE names, else none. An empty Secret is none.
        token_file: a file with the token, which is read again when it changes.
        ca: a file with the authorities (PEM) whose certificates are trusted; None: those that gRPC brings along, and
            for REST the system's.
        client_cert: a file with a certificate chain (PEM) of this client; None: none.
        client_key: its key (PEM).
        tokens_without_tls: send the token in plain text, to other machines too.

    Raises:
        ConfigError: two tokens, or a certificate without its key.
    """

    token: Secret | None = field(default=None, repr=False)
    token_file: FilePath | None = None
    ca: FilePath | None = None
    client_cert: FilePath | None = None
    client_key: FilePath | None = None
    tokens_without_tls: bool = False

    def __post_init__(self) -> None:
        if self.token is not None and self.token_file is not None:
            raise ConfigError("token= and token_file= are two tokens; give one of them")
        if (self.client_cert is None) != (self.client_key is None):
            raise ConfigError("client_cert= and client_key= belong together: give both, or neither")

    def newest_token(self) -> str | None:
        """The token as of now; None if there is none.

        Raises:
            ConfigError: a file can't be read or has no token, or a pickle has left the token out.
        """
        if self.token is not None:
            return self.token.reveal() or None
        if self.token_file is not None:
            return newest_token(Path(self.token_file))
        if text := os.environ.get(TOKEN_VARIABLE, "").strip():
            return checked_token(text, f"the variable {TOKEN_VARIABLE}")
        if path := os.environ.get(TOKEN_FILE_VARIABLE, ""):
            return newest_token(Path(path))
        return None

    def check_for(self, address: str) -> None:
        """Refuses to use these for an address ("HOST:PORT", "grpcs://HOST:PORT", or a URL of REST).

        Raises:
            ConfigError: the token would travel to another machine in plain text; there is TLS to do and no files for
                it, or the other way round; or a file can't be used.
        """
        has_token = self.newest_token() is not None
        if is_tls(address):
            self.ssl_context()
            return
        given = [name for name in ("ca", "client_cert", "client_key") if getattr(self, name) is not None]
        if given:
            raise ConfigError(f"{given[0]}= is for TLS, and {address} is without: give 'grpcs://{address}'")
        if has_token and not self.tokens_without_tls and not _is_loopback(host_of(address)):
            raise ConfigError(
                f"the token would travel to {address} in plain text, for everyone on the way to read: give "
                f"'grpcs://{address}' (for REST 'https://…') if the server has TLS, or tokens_without_tls=True "
                f"(--tokens-without-tls) if nobody can listen; or no token, and {TOKEN_VARIABLE} and "
                f"{TOKEN_FILE_VARIABLE} unset"
            )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call."""
        token = self.newest_token()
        return () if token is None else (("authorization", f"Bearer {token}"),)

    def channel(self, address: str, options: tuple[tuple[str, int], ...]) -> grpc.Channel:
        """A new channel to an address.

        Raises:
            ConfigError: a file can't be read.
        """
        if not is_tls(address):
            return grpc.insecure_channel(address, options=options)
        files = (self.ca, self.client_key, self.client_cert)
        try:
            parts = [None if path is None else Path(path).read_bytes() for path in files]
        except OSError as error:
            raise ConfigError(f"can't read {error.filename}: {error.strerror}") from error
        return grpc.secure_channel(without_scheme(address), grpc.ssl_channel_credentials(*parts), options=options)

    def stamp(self) -> tuple[int | None, ...]:
        """Another one after a file for TLS has changed, so that a channel has to be made anew."""
        files = (self.ca, self.client_key, self.client_cert)
        return tuple(None if path is None else _changed_at(path) for path in files)

    def ssl_context(self) -> ssl.SSLContext:
        """For a connection of REST, and to see what is wrong with one of gRPC.

        Raises:
            ConfigError: a file can't be read, or has other contents than it should.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ConfigError(f"ca={str(self.ca)!r} must be a file with certificates, PEM: {_reason(error)}") from None
        if self.client_cert is not None:
            try:
                # Without a password here, OpenSSL would ask for one on the terminal.
                context.load_cert_chain(self.client_cert, self.client_key, password=lambda: b"")
            except OSError as error:
                raise ConfigError(
                    f"client_cert={str(self.client_cert)!r} and client_key={str(self.client_key)!r} must be a "
                    f"certificate chain and its key, PEM and not encrypted: {_reason(error)}"
                ) from None
        return context

    @property
    def remedy(self) -> str:
        """What to do about a server that refuses the token; names its place, never the token."""
        if self.newest_token() is None:
            return (
                f"this client has no token: give Connection(token_file=…) (--token-file), or set {TOKEN_VARIABLE} or "
                f"{TOKEN_FILE_VARIABLE}"
            )
        if self.token is not None:
            return "the token is that of token="
        if self.token_file is not None:
            return f"the token is that of {self.token_file}, which is read again when it changes"
        variable = TOKEN_VARIABLE if os.environ.get(TOKEN_VARIABLE, "").strip() else TOKEN_FILE_VARIABLE
        return f"the token is that of the variable {variable}"


def _changed_at(path: FilePath) -> int:
    try:
        return os.stat(path).st_ctime_ns
    except OSError:
        return 0


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
