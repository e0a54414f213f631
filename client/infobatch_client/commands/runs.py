"""`infobatch runs`: the runs of a score server, one line each, with their progress and the share they saved."""

from __future__ import annotations

import argparse
import json

from infobatch_client.commands.which_server import add_server_arguments, ask
from infobatch_client.rpc.rest import Json, aligned, percent, shown
from infobatch_stream.errors import ServerError

HELP = "List the runs of a score server."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_server_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the server's answer as it is")


def run(args: argparse.Namespace) -> int:
    """Prints the list; 0."""
    answer = ask(args, "/v1/runs")
    if args.json:
        print(json.dumps(answer, indent=2))
        return 0
    found = answer.get("runs", []) if isinstance(answer, dict) else answer
    runs = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else None
    if runs is None:
        raise ServerError("this is no list of runs: is it a score server's --http address?")
    if not runs:
        print("no runs yet")
        return 0
    print(aligned([("run", "policy", "samples", "epochs", "saved"), *(_row(entry) for entry in runs)]))
    return 0


def _row(entry: dict[str, Json]) -> tuple[str, ...]:
    newest = entry.get("last_epoch")
    num_opened = newest + 1 if isinstance(newest, int) else None
    return (
        str(entry.get("run", "")),
        shown(entry.get("policy")),
        shown(entry.get("num_samples")),
        f"{shown(num_opened)} of {shown(entry.get('epochs'))}",
        percent(entry.get("saved_share")),
    )
