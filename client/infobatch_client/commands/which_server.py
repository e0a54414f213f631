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
from infobatch_client.rpc.rest import TOKEN_VARIABLE, Json, get_json, read_token
from infobatch_stream.errors import ConfigError, ServerUnreachableError

__all__ = ["add_grpc_arguments", "add_server_arguments", "ask", "connect"]

T = TypeVar("T")

_DEFAULT_HTTP = "127.0.0.1:8080"
_DEFAULT_GRPC = "127.0.0.1:50051"
_WAIT_S = 3.0


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name a server and authorize the caller: `--http`, `--state-dir`, `--token-file`."""
    _add_places(parser, "--http", "the server's REST address, or its http(s):// URL", _DEFAULT_HTTP)
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"a file with the token to read with (default: the variable {TOKEN_VARIABLE}, if set)",
    )


def add_grpc_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name a server to call: `--grpc`, `--state-dir`."""
    _add_places(parser, "--grpc", "the server's gRPC address", _DEFAULT_GRPC)


def ask(args: argparse.Namespace, path: str) -> Json:
    """The JSON at `path` of the server that the options name, or that is found.

    Raises:
        ConfigError: an invalid option, or no server runs in the named folder.
        ServerError: as `get_json`.
    """
    token = read_token(args.token_file)
    return _with_server(args, "http", _DEFAULT_HTTP, lambda address: get_json(address, path, token=token))


def connect(args: argparse.Namespace) -> ScoreClient:
    """A client of the server that the options name, or that is found; the server is up. The caller closes it.

    Raises:
        ConfigError: an invalid option, no server runs in the named folder, or what answers is no score server.
        ServerError: as `ScoreClient.wait_until_up`.
    """
    return _with_server(args, "grpc", _DEFAULT_GRPC, _connected)


def _connected(address: str) -> ScoreClient:
    client = ScoreClient(check_url(address))
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


def _with_server(args: argparse.Namespace, kind: str, default: str, call: Callable[[str], T]) -> T:
    """What `call` gives for the server's address of a kind, "http" or "grpc"."""
    named = getattr(args, kind)
    if named is not None:
        return call(named)
    folder = chosen_state_folder(args.state_dir)
    embedded = ServerFiles(folder).address(kind)
    if embedded is not None:
        print(f"infobatch: the embedded server of {folder}, at {embedded}", file=sys.stderr)
        return call(embedded)
    none_there = f"no server runs in {folder}: an embedded one ends with its training"
    if args.state_dir is not None:
        raise ConfigError(none_there if folder.is_dir() else f"no server runs in {folder}: there is no such folder")
    try:
        return call(default)
    except ServerUnreachableError as error:
        hint = f", and {none_there}" if folder.is_dir() else ""
        raise ServerUnreachableError(f"{error}{hint}; name a server with --{kind} HOST:PORT") from error
