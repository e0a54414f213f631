"""`infobatch stats RUN`: the share that a run has saved, and how many samples its plans keep and prune."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import groupby

from infobatch_client.commands.which_server import add_server_arguments, ask
from infobatch_client.rpc.rest import Json, aligned, percent, run_path, shown
from infobatch_stream.errors import ServerError

HELP = "Show the pruning statistics of a run."


_GROUP_FIELDS = ("group", "samples", "scored", "threshold", "kept", "pruned", "mean_score")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="the run's name")
    add_server_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the server's answer as it is")


def run(args: argparse.Namespace) -> int:
    """Prints the run's statistics; 0."""
    stats = ask(args, run_path(args.run))
    if args.json:
        print(json.dumps(stats, indent=2))
        return 0
    if not isinstance(stats, dict):
        raise ServerError("these are no run's statistics: is it a score server's --http address?")
    rows = {name: shown(value) for name, value in stats.items() if _is_plain(value)}
    pruned, num_samples = stats.get("pruned"), stats.get("num_samples")
    if isinstance(pruned, int) and isinstance(num_samples, int) and num_samples:
        rows["pruned"] += f"  ({percent(pruned / num_samples)})"
    if "saved_share" in rows:
        rows["saved_share"] = percent(stats["saved_share"])
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
        print(f"{name:<{width}}  {text}")
    groups = stats.get("groups")
    if groups and isinstance(groups, list):
        print()
        print(aligned([_GROUP_FIELDS, *(_group(group) for group in groups if isinstance(group, dict))]))
    history = stats.get("history")
    if history and isinstance(history, list):
        print()
        lines = [line for line in history if isinstance(line, dict)]
        dropped = ("dropped",) if any(line.get("dropped") for line in lines) else ()
        columns = ("kept", "pruned", *dropped, "threshold")
        print(aligned([("epoch", *columns), *_epochs(lines, columns)]))
    return 0


def _group(group: dict[str, Json]) -> tuple[str, ...]:
    name, *figures = (group.get(field) for field in ("name", *_GROUP_FIELDS[1:]))
    return str(name), *map(shown, figures)


def _epochs(lines: list[dict[str, Json]], columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """One row per epoch; consecutive epochs with the same numbers share a row."""
    for values, group in groupby(lines, lambda line: tuple(line.get(name) for name in columns)):
        epochs = [line.get("epoch") for line in group]
        yield f"{epochs[0]}–{epochs[-1]}" if len(epochs) > 1 else str(epochs[0]), *map(shown, values)


def _is_plain(value: Json) -> bool:
    return value is None or isinstance(value, (str, int, float))
