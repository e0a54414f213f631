"""Which score server a command asks: the one that the user names, or one that is found on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from infobatch_client.embedded.server_files import ServerFiles
from infobatch_client.embedded.state_folder import chosen_state_folder
from infobatch_client.rpc.credentials import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE, Credentials
from infobatch_client.rpc.rest import Json, get_json
from infobatch_stream.errors import ConfigError, ServerUnreachableError

__all__ = ["add_credential_arguments", "add_server_arguments", "ask", "credentials"]

_DEFAULT_HTTP = "127.0.0.1:8080"


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name a server, `--http` and `--state-dir`, and those that authorize the caller."""
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
    add_credential_arguments(parser)


def add_credential_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that authorize the caller, and that say whom to trust."""
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"a file with the token (default: the variable {TOKEN_VARIABLE}, or the file in {TOKEN_FILE_VARIABLE})",
    )
    parser.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help="for TLS: the authorities (PEM) to trust (default: public ones)",
    )
    parser.add_argument("--client-cert", type=Path, metavar="FILE", help="for TLS: your certificate chain (PEM)")
    parser.add_argument("--client-key", type=Path, metavar="FILE", help="its key (PEM)")
    parser.add_argument(
        "--tokens-without-tls", action="store_true", help="send the token in plain text, to other machines too"
    )


def credentials(args: argparse.Namespace) -> Credentials:
    """What the options of `add_credential_arguments` say.

    Raises:
        ConfigError: options that don't go together.
    """
    return Credentials(
        token_file=args.token_file,
        ca=args.ca,
        client_cert=args.client_cert,
        client_key=args.client_key,
        tokens_without_tls=args.tokens_without_tls,
    )


def ask(args: argparse.Namespace, path: str) -> Json:
    """The JSON at `path` of the server that the options name, or that is found.

    Raises:
        ConfigError: an invalid option, or no server runs in the named folder.
        ServerError: as `get_json`.
    """
    own = credentials(args)
    if args.http is not None:
        return get_json(args.http, path, credentials=own)
    folder = chosen_state_folder(args.state_dir)
    embedded = ServerFiles(folder).http()
    if embedded is not None:
        address, its_token = embedded
        print(f"infobatch: the embedded server of {folder}, at {address}", file=sys.stderr)
        return get_json(address, path, credentials=its_token)
    none_there = f"no server runs in {folder}: an embedded one ends with its training"
    if args.state_dir is not None:
        raise ConfigError(none_there if folder.is_dir() else f"no server runs in {folder}: there is no such folder")
    try:
        return get_json(_DEFAULT_HTTP, path, credentials=own)
    except ServerUnreachableError as error:
        hint = f", and {none_there}" if folder.is_dir() else ""
        raise ServerUnreachableError(f"{error}{hint}; name a server with --http HOST:PORT") from error
