"""The options of `infobatch serve` that say who may call, and the rule beyond loopback."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path

from infobatch_server.access.access import Access
from infobatch_server.access.certificates import Certificates
from infobatch_server.access.tokens import Tokens
from infobatch_server.process.address import Address
from infobatch_stream.errors import ConfigError

__all__ = ["access_of", "add_arguments", "check_reach"]

log = logging.getLogger(__name__)

_HOST = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain (PEM) for both addresses")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its key (PEM)")
    parser.add_argument(
        "--tls-client-ca",
        type=Path,
        metavar="FILE",
        help="accept only clients with a certificate that one of these authorities (PEM) has signed, besides a token",
    )
    parser.add_argument(
        "--tokens",
        type=Path,
        metavar="FILE",
        help="accept only calls with a token of this file, which has lines NAME SCOPE TOKEN; SCOPE is train or read",
    )
    parser.add_argument(
        "--http-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name under which HTTP is called, besides those in the certificate; may be repeated",
    )
    parser.add_argument(
        "--tokens-without-tls",
        action="store_true",
        help="allow addresses that other machines can reach with tokens alone, which travel in plain text",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="allow addresses that other machines can reach without tokens: everyone there may read and write",
    )


def access_of(args: argparse.Namespace, own_token: str | None) -> Access:
    """What the options ask for.

    Args:
        args: the parsed options.
        own_token: a token that this server has made for itself; None if it has none.

    Raises:
        ConfigError: an option is missing or invalid, or a file is.
    """
    if (args.tls_cert is None) != (args.tls_key is None):
        given, missing = ("cert", "key") if args.tls_key is None else ("key", "cert")
        raise ConfigError(f"--tls-{given} needs --tls-{missing} too: TLS takes a certificate and its key")
    if args.tls_client_ca is not None and args.tls_cert is None:
        raise ConfigError("--tls-client-ca needs --tls-cert and --tls-key: client certificates are a part of TLS")
    for name in args.http_host:
        if not _HOST.fullmatch(name):
            raise ConfigError(f"--http-host takes the name of a host, without scheme or port; got {name!r}")
    has_tokens = args.tokens is not None or own_token is not None
    tokens = Tokens(args.tokens, own_token) if has_tokens else None
    certificates = None
    if args.tls_cert is not None:
        certificates = Certificates(args.tls_cert, args.tls_key, args.tls_client_ca)
        log.info("TLS with %s, for %s", args.tls_cert, ", ".join(certificates.names) or "no name")
    if args.tokens is not None:
        log.info("tokens of %s: %r", args.tokens, tokens)
    return Access(tokens=tokens, certificates=certificates, http_hosts=tuple(args.http_host))


def check_reach(*addresses: Address, access: Access, tokens_without_tls: bool, insecure: bool) -> None:
    """Refuses addresses that other machines can reach, unless TLS and tokens guard them or the user allows it.

    Raises:
        ConfigError: the message says what is missing.
    """
    for address in addresses:
        if address.is_loopback or (access.tokens is not None and access.certificates is not None):
            continue
        if access.tokens is None and not insecure:
            lacks = "neither TLS nor tokens" if access.certificates is None else "no tokens"
            raise ConfigError(
                f"other machines can reach {address}, and this server has {lacks}: bind 127.0.0.1, or give --tls-cert, "
                "--tls-key and --tokens; --insecure does without, if you trust everyone on the network"
            )
        if access.tokens is None:
            log.warning("--insecure: everyone who can reach %s can read and write every run", address)
        elif not tokens_without_tls:
            raise ConfigError(
                f"other machines can reach {address}, and tokens would travel there in plain text: give --tls-cert and "
                "--tls-key, or --tokens-without-tls if nobody can listen on the network"
            )
        else:
            log.warning("--tokens-without-tls: whoever can listen on the network of %s can learn tokens", address)
