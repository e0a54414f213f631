"""`infobatch runs`: the runs that a score server holds, one line each."""

from __future__ import annotations

import argparse
import json
from typing import Any

from infobatch_client.rest import add_server_arguments, get_json, read_token
from infobatch_stream.errors import ServerError

HELP = "List the runs of a score server."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_server_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the server's answer as it is")


def run(args: argparse.Namespace) -> int:
    """Prints the list; 0."""
    answer = get_json(args.http, "/v1/runs", token=read_token(args.token_file))
    if args.json:
        print(json.dumps(answer, indent=2))
        return 0
    runs = answer.get("runs", []) if isinstance(answer, dict) else answer
    if not isinstance(runs, list):
        raise ServerError(f"{args.http} answered something else than a list of runs")
    if not runs:
        print("no runs yet")
        return 0
    rows = [("run", "run id", "samples"), *(_row(entry) for entry in runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for name, run_id, samples in rows:
        print(f"{name:<{widths[0]}}  {run_id:<{widths[1]}}  {samples:>{widths[2]}}")
    return 0


def _row(entry: dict[str, Any]) -> tuple[str, str, str]:
    samples = entry.get("num_samples")
    return (
        str(entry.get("run", "")),
        str(entry.get("run_id", "")),
        f"{samples:,}" if isinstance(samples, int) else "",
    )
