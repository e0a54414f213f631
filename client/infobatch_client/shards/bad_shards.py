"""What is said of shards that can't be used: all of them, and not the first only."""

from __future__ import annotations

from collections.abc import Sequence

from infobatch_stream.errors import ShardError

__all__ = ["MAX_NAMED", "error_of_all", "left_out_warning"]

MAX_NAMED = 50
"""Bad shards that a message names; `infobatch index` names all."""


def _listing(reasons: Sequence[str], max_named: int = MAX_NAMED) -> str:
    """One line for each of at most `max_named` bad shards, and how many more there are."""
    lines = [f"\n  {reason}" for reason in reasons[:max_named]]
    if len(reasons) > max_named:
        lines.append(f"\n  and {len(reasons) - max_named} more; `infobatch index` lists all of them")
    return "".join(lines)


def left_out_warning(left_out: Sequence[tuple[str, str]], num_good: int) -> str:
    """What a warning says of shards that were left out, given as (URL, reason)."""
    lines = _listing([reason for _, reason in left_out])
    counted = f"{len(left_out)} of {len(left_out) + num_good} shards"
    return f"{counted} are left out (on_error='skip'), and are no part of this data set:{lines}"


def error_of_all(errors: Sequence[ShardError], num_shards: int, limit: int | None, max_named: int) -> ShardError:
    """The error of a list of shards with bad ones.

    Args:
        errors: of the bad shards, at least one.
        num_shards: listed shards.
        limit: how many could be left out; None if all but one.
        max_named: how many the message names.

    Returns:
        The error itself if it is the only one; else one of the same class, or a ShardError if they are of several,
        with a line for each.
    """
    if len(errors) == 1 and limit == 0:
        return errors[0]
    kinds = {type(error) for error in errors}
    if limit == 0:
        what = "; on_error='skip' leaves them out"
    elif len(errors) == num_shards:
        what = "; no shard is left"
    else:
        what = f", and at most max_shards={limit} may be left out"
    lines = _listing([str(error) for error in errors], max_named)
    text = f"{len(errors)} of {num_shards} shards can't be used{what}:{lines}"
    return (kinds.pop() if len(kinds) == 1 else ShardError)(text)
