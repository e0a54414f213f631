"""Arguments of a dataset from a flat list of words, each put into the object that it belongs to."""

from __future__ import annotations

from typing import Any

from infobatch_stream import Connection, SkipErrors
from infobatch_stream.pruning.policies import make_policy

__all__ = ["dataset_arguments"]

_CONNECTION = ("timeouts", "state_dir", "if_exists", "takeover")
_POLICY = ("anneal", "condition", "draw", "levels", "prune_fraction", "prune_schedule", "rescale", "threshold")


def dataset_arguments(**words: Any) -> dict[str, Any]:
    """`words` with a `Connection`, a policy object and a `SkipErrors` in place of the words that belong there.

    Without a policy's own words, its name, prune_ratio and delta stay the dataset's shorthand.
    """
    connection = {name: words.pop(name) for name in _CONNECTION if name in words}
    settings = {name: words.pop(name) for name in _POLICY if name in words}
    name = words.get("policy", "infobatch")
    if settings and name is not None:
        settings |= {name: words.pop(name) for name in ("prune_ratio", "delta") if words.get(name) is not None}
        words["policy"] = make_policy(name, **settings)
    if connection:
        words["connection"] = Connection(**connection)
    if "max_errors" in words:
        words["on_error"] = SkipErrors(max_errors=words.pop("max_errors"))
    return words
