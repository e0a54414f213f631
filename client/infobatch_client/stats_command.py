"""`infobatch stats RUN`: what the newest plan of a run keeps and prunes."""

from __future__ import annotations

import argparse
import json
from typing import Any

from infobatch_client.rest import add_server_arguments, get_json, read_token, run_path
from infobatch_stream.errors import ServerError

HELP = "Show the pruning statistics of a run."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="the run's name")
    add_server_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the server's answer as it is")


def run(args: argparse.Namespace) -> int:
    """Prints the run's statistics; 0."""
    stats = get_json(args.http, run_path(args.run), token=read_token(args.token_file))
    if args.json:
        print(json.dumps(stats, indent=2))
        return 0
    if not isinstance(stats, dict):
        raise ServerError(f"{args.http} answered something else than a run's statistics")
    rows = {name: _text(value) for name, value in stats.items() if _is_plain(value)}
    if isinstance(stats.get("pruned"), int) and stats.get("num_samples"):
        rows["pruned"] += f"  ({100 * stats['pruned'] / stats['num_samples']:.1f} %)"
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
        print(f"{name:<{width}}  {text}")
    return 0


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _text(value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
