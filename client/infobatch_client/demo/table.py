"""The demo's table, which compares two trainings side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infobatch_client.demo.training import Outcome

__all__ = ["side_by_side"]

EPOCHS_PER_ROW = 6


def side_by_side(full: Outcome, pruned: Outcome, pruned_name: str) -> str:
    """A text table of both outcomes, with a row per figure and a column per training."""
    saved = 1 - pruned.samples_trained / full.samples_trained
    rows = [
        ("", "full data", pruned_name),
        ("ranks", str(len(full.samples_by_rank)), str(len(pruned.samples_by_rank))),
        ("test accuracy", _accuracy(full), _accuracy(pruned)),
        ("samples trained", f"{full.samples_trained:,}", f"{pruned.samples_trained:,} ({saved:.1%} fewer)"),
        *_rank_rows(full.samples_by_rank, pruned.samples_by_rank),
        ("wall time, training", f"{full.wall_s:.1f} s", f"{pruned.wall_s:.1f} s"),
        *_pruned_rows(full.pruned_shares, pruned.pruned_shares),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def _accuracy(outcome: Outcome) -> str:
    share = 1 - outcome.test_errors / outcome.num_test
    return f"{share:.2%} ({outcome.test_errors} of {outcome.num_test} wrong)"


def _rank_rows(full: Sequence[int], pruned: Sequence[int]) -> list[tuple[str, str, str]]:
    """The samples trained by each rank; no rows for a single rank."""
    if len(full) == 1:
        return []
    return [
        (f"  by rank {rank}", f"{one:,}", f"{two:,}") for rank, (one, two) in enumerate(zip(full, pruned, strict=True))
    ]


def _pruned_rows(full: Sequence[float], pruned: Sequence[float]) -> list[tuple[str, str, str]]:
    """The pruned shares in percent, EPOCHS_PER_ROW epochs per row."""
    rows = []
    for first in range(0, max(len(full), len(pruned)), EPOCHS_PER_ROW):
        span = slice(first, first + EPOCHS_PER_ROW)
        last = min(span.stop, max(len(full), len(pruned))) - 1
        name = f"% pruned, epoch {first}" + (f" to {last}" if last > first else "")
        rows.append((name, _percents(full[span]), _percents(pruned[span])))
    return rows


def _percents(shares: Sequence[float]) -> str:
    return " ".join(f"{100 * share:2.0f}" for share in shares)
