"""The `infobatch` command: imports the module of one subcommand, and runs it.

A subcommand's module has `HELP` (one sentence), `add_arguments(parser)` and `run(args) -> int`; the optional `IMPORTS`
are the modules that `run` needs and `--help` doesn't wait for.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

from infobatch_stream.errors import ConfigError, InfoBatchError

__all__ = ["main"]

_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Command:
    """A subcommand: its module, its help, and the extra that installs its dependencies."""

    module: str
    help: str
    extra: str | None = None


COMMANDS = {
    "serve": Command(module="infobatch_server.serve_command", help="run a score server", extra="server"),
    "index": Command(module="infobatch_client.commands.index", help="write the index files of shards", extra="train"),
    "demo": Command(
        module="infobatch_client.demo.command",
        help="train on 1,347 digits with and without pruning, and compare",
        extra="demo",
    ),
    "runs": Command(module="infobatch_client.commands.runs", help="list the runs of a score server"),
    "forget-drops": Command(
        module="infobatch_client.commands.forget_drops", help="bring back the samples that a pipeline dropped"
    ),
    "stats": Command(module="infobatch_client.commands.stats", help="show the pruning statistics of a run"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: that of the process) and returns the exit status.

    Returns:
        0: success. 2: an `InfoBatchError`, invalid arguments included, or an error of files or connections, printed in
        one line on stderr. 130: interrupted. 141: nobody reads the output any more, as in `infobatch runs | head -1`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for terminals without the sign for "to", or δ
    try:
        try:
            return _run(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except InfoBatchError as error:
        print(f"infobatch: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        _close_output()
        return 141
    except OSError as error:
        place = "" if error.filename is None else f": {error.filename}"
        print(f"infobatch: {error.strerror or error}{place}", file=sys.stderr)
        _close_output()
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(arguments: list[str]) -> int:
    command_name = next((word for word in arguments if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="infobatch", description="InfoBatch data pruning for streamed, multi-node training."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    try:
        for name, command in COMMANDS.items():
            subparser = commands.add_parser(name, help=command.help)
            if name == command_name:
                with _ended_by_interrupts():
                    module = import_module(command.module)
                subparser.description = module.HELP
                module.add_arguments(subparser)
        args = parser.parse_args(arguments)
        if args.command is not None:
            with _ended_by_interrupts():
                for name in getattr(module, "IMPORTS", ()):
                    import_module(name)
            return int(module.run(args))
    except ModuleNotFoundError as error:
        raise _missing_package(command_name, error) from error
    except ImportError as error:  # another platform, or a package that is broken
        raise ConfigError(f"`infobatch {command_name}` can't run here: {error}") from error
    if args.version:
        from infobatch_stream.version import __version__

        print(f"infobatch-stream {__version__}")
    else:
        parser.print_help()
    return 0


@contextmanager
def _ended_by_interrupts() -> Iterator[None]:
    """For imports: an interrupt ends the process at once and without a word, as nothing needs an end yet.

    numpy, for one, takes KeyboardInterrupt in its import for a module that can't be loaded. Where a program has a
    handler of its own, or isn't on its main thread, this does nothing.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(_INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _close_output() -> None:
    """Throws away output that can't be written, which the interpreter would try to write again at its end."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _missing_package(command_name: str | None, error: ModuleNotFoundError) -> Exception:
    """The error for a missing package; a missing module of ours is a defect and keeps its traceback."""
    root = (error.name or "").split(".")[0]
    extra = COMMANDS[command_name].extra if command_name in COMMANDS else None
    if extra is None or root in ("", "infobatch_stream", "infobatch_client", "infobatch_server"):
        return error
    return ConfigError(
        f"`infobatch {command_name}` needs {root!r}, which is not installed: pip install 'infobatch-stream[{extra}]'"
    )
