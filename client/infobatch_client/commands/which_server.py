"""Which score server a command asks: the one that the user names, or one that is found on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from infobatch_client.embedded.server_files import ServerFiles
from infobatch_client.embedded.state_folder import chosen_state_folder
from infobatch_client.rpc.rest import TOKEN_VARIABLE, Json, get_json, read_token
from infobatch_stream.errors import ConfigError, ServerUnreachableError

__all__ = ["add_server_arguments", "ask"]

_DEFAULT_HTTP = "127.0.0.1:8080"


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name a server and authorize the caller: `--http`, `--state-dir`, `--token-file`."""
    places = parser.add_mutually_exclusive_group()
    places.add_argument(
        "--http",
        metavar="HOST:PORT",
        help="the server's REST address, or its http(s):// URL (default: the embedded server of ./.infobatch, if one "
        f"runs, else {_DEFAULT_HTTP})",
    )
    places.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="the state folder of an embedded server (default: ./.infobatch)"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"a file with the token to read with (default: the variable {TOKEN_VARIABLE}, if set)",
    )


def ask(args: argparse.Namespace, path: str) -> Json:
    """The JSON at `path` of the server that the options name, or that is found.

    Raises:
        ConfigError: an invalid option, or no server runs in the named folder.
        ServerError: as `get_json`.
    """
    token = read_token(args.token_file)
    if args.http is not None:
        return get_json(args.http, path, token=token)
    folder = chosen_state_folder(args.state_dir)
    embedded = ServerFiles(folder).http_address
    if embedded is not None:
        print(f"infobatch: the embedded server of {folder}, at {embedded}", file=sys.stderr)
        return get_json(embedded, path, token=token)
    none_there = f"no server runs in {folder}: an embedded one ends with its training"
    if args.state_dir is not None:
        raise ConfigError(none_there if folder.is_dir() else f"no server runs in {folder}: there is no such folder")
    try:
        return get_json(_DEFAULT_HTTP, path, token=token)
    except ServerUnreachableError as error:
        hint = f", and {none_there}" if folder.is_dir() else ""
        raise ServerUnreachableError(f"{error}{hint}; name a server with --http HOST:PORT") from error
