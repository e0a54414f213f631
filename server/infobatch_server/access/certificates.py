"""The server's certificate and key, and the authority of its clients' certificates, for gRPC and HTTP alike."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path
from typing import NamedTuple, cast

import grpc

from infobatch_server.access.watched_files import WatchedFiles
from infobatch_stream.errors import ConfigError

__all__ = ["Certificates"]

log = logging.getLogger(__name__)


class _Loaded(NamedTuple):
    grpc: grpc.ServerCertificateConfiguration
    context: ssl.SSLContext
    names: tuple[str, ...]


class Certificates:
    """What the server proves its name with; read again at the next handshake after a file changed.

    Args:
        cert: a file with the certificate chain, PEM.
        key: a file with its key, PEM, not encrypted.
        client_ca: a file with the authorities that must have signed a client's certificate; None: clients need none.

    Raises:
        ConfigError: a file can't be read, is not PEM, or the key is not the certificate's; the certificate has expired
            or is not valid yet.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        paths = (cert, key) if client_ca is None else (cert, key, client_ca)
        self._files = WatchedFiles(paths, self._load)
        if os.stat(key).st_mode & 0o007:
            log.warning("--tls-key %s: every user of this machine can read it; chmod 600 it", key)

    @property
    def names(self) -> tuple[str, ...]:
        """The DNS names and IP addresses in the certificate, in lower case."""
        return self._files.get().names

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For a gRPC port."""
        return grpc.dynamic_ssl_server_credentials(
            self._files.get().grpc, lambda: self._files.get().grpc, self._client_ca is not None
        )

    def ssl_context(self) -> ssl.SSLContext:
        """For an HTTP port."""
        context = _context(self._cert, self._key, self._client_ca)

        def use_newest(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext) -> None:
            connection.context = self._files.get().context

        context.sni_callback = use_newest
        return context

    def _load(self) -> _Loaded:
        chain, key = _bytes(self._cert, "--tls-cert"), _bytes(self._key, "--tls-key")
        authorities = None if self._client_ca is None else _bytes(self._client_ca, "--tls-client-ca")
        context = _context(self._cert, self._key, self._client_ca)
        configuration = grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=authorities)
        return _Loaded(configuration, context, _names(self._cert, self._key))


def _bytes(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}") from error


def _context(cert: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password here, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except OSError as error:
        raise ConfigError(
            f"--tls-cert {cert} and --tls-key {key} must be a certificate chain and its key, PEM and not encrypted: "
            f"{getattr(error, 'reason', None) or error.strerror or error}"
        ) from None
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise ConfigError(f"--tls-client-ca {client_ca} must hold certificates, PEM: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _names(cert: Path, key: Path) -> tuple[str, ...]:
    """The names in a certificate, from a handshake in memory with a client that trusts this certificate alone.

    Raises:
        ConfigError: no client could trust it, as it has expired or is not valid yet.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.load_verify_locations(cert)
    trusting.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server)
    server = _context(cert, key, None).wrap_bio(to_server, to_client, server_side=True)
    try:
        for side in (client, server, client):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(f"--tls-cert {cert}: no client will trust it: {error.verify_message}") from None
    found = client.getpeercert() or {}
    entries = cast("tuple[tuple[str, str], ...]", found.get("subjectAltName", ()))
    return tuple(value.lower() for kind, value in entries if kind in ("DNS", "IP Address"))
