"""`infobatch stats RUN`: the share that a run has saved, and how many samples its plans keep and prune."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import groupby

from infobatch_client.rpc.rest import (
    Json,
    add_server_arguments,
    aligned,
    get_json,
    percent,
    read_token,
    run_path,
    shown,
)
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
    stats = get_json(args.http, run_path(args.run), token=read_token(args.token_file))
    if args.json:
        print(json.dumps(stats, indent=2))
        return 0
    if not isinstance(stats, dict):
        raise ServerError(f"{args.http} answered something else than a run's statistics")
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
        print(aligned([("epoch", "kept", "pruned", "threshold"), *_epochs(history)]))
    return 0


def _group(group: dict[str, Json]) -> tuple[str, ...]:
    name, *figures = (group.get(field) for field in ("name", *_GROUP_FIELDS[1:]))
    return str(name), *map(shown, figures)


def _epochs(history: list[Json]) -> Iterator[tuple[str, ...]]:
    """One row per epoch; consecutive epochs with the same numbers share a row."""
    for values, lines in groupby([line for line in history if isinstance(line, dict)], _plan_of):
        epochs = [line.get("epoch") for line in lines]
        yield f"{epochs[0]}–{epochs[-1]}" if len(epochs) > 1 else str(epochs[0]), *map(shown, values)


def _plan_of(line: dict[str, Json]) -> tuple[Json, ...]:
    return tuple(line.get(name) for name in ("kept", "pruned", "threshold"))


def _is_plain(value: Json) -> bool:
    return value is None or isinstance(value, (str, int, float))
