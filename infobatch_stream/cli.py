"""The `infobatch` command: finds the subcommand's module, imports only that one, and hands over.

A subcommand's module has `HELP` (one sentence), `add_arguments(parser)` and `run(args) -> int`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from infobatch_stream.errors import ConfigError, InfoBatchError

__all__ = ["main"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """Where a subcommand lives, and which extra installs what it needs."""

    module: str
    help: str
    extra: str | None = None


COMMANDS = {
    "serve": Command(module="infobatch_server.serve_command", help="run a score server", extra="server"),
    "index": Command(module="infobatch_client.commands.index", help="make the index files of shards", extra="train"),
    "demo": Command(
        module="infobatch_client.demo.command",
        help="train on 1,347 digits with and without pruning, and compare",
        extra="demo",
    ),
    "runs": Command(module="infobatch_client.commands.runs", help="list the runs of a score server"),
    "stats": Command(module="infobatch_client.commands.stats", help="show what a run prunes"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: the process's own) and returns the exit status.

    0: done. 2: arguments that can't be meant, or an `InfoBatchError`, told in one line on stderr.
    130: interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except InfoBatchError as error:
        print(f"infobatch: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(arguments: list[str]) -> int:
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="infobatch", description="InfoBatch data pruning for streamed, multi-node training."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    try:
        for name, command in COMMANDS.items():
            subparser = commands.add_parser(name, help=command.help)
            if name == chosen:
                module = import_module(command.module)
                subparser.description = module.HELP
                module.add_arguments(subparser)
        args = parser.parse_args(arguments)
        if args.command is not None:
            return int(module.run(args))
    except ModuleNotFoundError as error:
        raise _missing(chosen, error) from error
    if args.version:
        from infobatch_stream.version import __version__

        print(f"infobatch-stream {__version__}")
    else:
        parser.print_help()
    return 0


def _missing(chosen: str | None, error: ModuleNotFoundError) -> Exception:
    """What to say of a module that isn't there; one of our own is a defect and keeps its traceback."""
    root = (error.name or "").split(".")[0]
    extra = COMMANDS[chosen].extra if chosen in COMMANDS else None
    if extra is None or root in ("", "infobatch_stream", "infobatch_client", "infobatch_server"):
        return error
    return ConfigError(
        f"`infobatch {chosen}` needs {root!r}, which is not installed: pip install 'infobatch-stream[{extra}]'"
    )
