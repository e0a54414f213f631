"""Which score server a command asks: the one that the user names, or one that is found on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from infobatch_client.embedded.server_files import ServerFiles
from infobatch_client.embedded.state_folder import chosen_state_folder
from infobatch_client.rpc.address import check_url
from infobatch_client.rpc.client import ScoreClient
from infobatch_client.rpc.credentials import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE, Credentials
from infobatch_client.rpc.rest import Json, get_json
from infobatch_stream.errors import ConfigError, ServerUnreachableError

__all__ = ["add_grpc_arguments", "add_server_arguments", "ask", "connect"]

T = TypeVar("T")

_DEFAULT_HTTP = "127.0.0.1:8080"
_DEFAULT_GRPC = "127.0.0.1:50051"
_WAIT_S = 3.0


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name a server, `--http` and `--state-dir`, and those that authorize the caller."""
    _add_places(parser, "--http", "the server's REST address, or its http(s):// URL", _DEFAULT_HTTP)
    _add_credentials(parser)


def add_grpc_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name a server to call, `--grpc` and `--state-dir`, and those that authorize the caller."""
    _add_places(parser, "--grpc", "the server's gRPC address, grpcs://HOST:PORT with TLS", _DEFAULT_GRPC)
    _add_credentials(parser)


def ask(args: argparse.Namespace, path: str) -> Json:
    """The JSON at `path` of the server that the options name, or that is found.

    Raises:
        ConfigError: an invalid option, or no server runs in the named folder.
        ServerError: as `get_json`.
    """

    def get(address: str, credentials: Credentials) -> Json:
        return get_json(address, path, credentials=credentials)

    return _with_server(args, "http", _DEFAULT_HTTP, get)


def connect(args: argparse.Namespace) -> ScoreClient:
    """A client of the server that the options name, or that is found; the server is up. The caller closes it.

    Raises:
        ConfigError: an invalid option, no server runs in the named folder, or what answers is no score server.
        ServerError: as `ScoreClient.wait_until_up`.
    """
    return _with_server(args, "grpc", _DEFAULT_GRPC, _connected)


def _connected(address: str, credentials: Credentials) -> ScoreClient:
    client = ScoreClient(check_url(address), credentials=credentials)
    try:
        client.wait_until_up(_WAIT_S)
    except BaseException:
        client.close()
        raise
    return client


def _add_places(parser: argparse.ArgumentParser, option: str, what: str, default: str) -> None:
    places = parser.add_mutually_exclusive_group()
    places.add_argument(
        option,
        metavar="HOST:PORT",
        help=f"{what} (default: the embedded server of ./.infobatch, if one runs, else {default})",
    )
    places.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="the state folder of an embedded server (default: ./.infobatch)"
    )


def _add_credentials(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"a file with the token (default: the variable {TOKEN_VARIABLE}, or the file in {TOKEN_FILE_VARIABLE})",
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="for TLS: the authorities (PEM) to trust (default: public ones)"
    )
    parser.add_argument("--client-cert", type=Path, metavar="FILE", help="for TLS: your certificate chain (PEM)")
    parser.add_argument("--client-key", type=Path, metavar="FILE", help="its key (PEM)")
    parser.add_argument(
        "--tokens-without-tls", action="store_true", help="send the token in plain text, to other machines too"
    )


def _with_server(args: argparse.Namespace, kind: str, default: str, call: Callable[[str, Credentials], T]) -> T:
    """What `call` gives for the server's address of a kind, "http" or "grpc", and what is shown to the server."""
    own = Credentials(
        token_file=args.token_file,
        ca=args.ca,
        client_cert=args.client_cert,
        client_key=args.client_key,
        tokens_without_tls=args.tokens_without_tls,
    )
    named = getattr(args, kind)
    if named is not None:
        return call(named, own)
    folder = chosen_state_folder(args.state_dir)
    embedded = ServerFiles(folder).address(kind)
    if embedded is not None:
        address, its_token = embedded
        print(f"infobatch: the embedded server of {folder}, at {address}", file=sys.stderr)
        return call(address, its_token)
    none_there = f"no server runs in {folder}: an embedded one ends with its training"
    if args.state_dir is not None:
        raise ConfigError(none_there if folder.is_dir() else f"no server runs in {folder}: there is no such folder")
    try:
        return call(default, own)
    except ServerUnreachableError as error:
        hint = f", and {none_there}" if folder.is_dir() else ""
        raise ServerUnreachableError(f"{error}{hint}; name a server with --{kind} HOST:PORT") from error
