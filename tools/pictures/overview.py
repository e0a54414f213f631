"""The README's picture: a loss histogram cut at the mean, thirty epochs, and who talks to whom."""

from __future__ import annotations

import csv
from pathlib import Path

from pictures.svg import Picture

__all__ = ["draw"]

DATA = Path(__file__).parents[1] / "docs"
BINS = 42
LARGEST = 4.2
"""The axis ends here; larger losses are in the last bin."""


def draw() -> str:
    """The picture as SVG."""
    picture = Picture(
        980,
        440,
        "InfoBatch as a service",
        "Left: a histogram of the demo's losses. Below their mean, half of the samples are skipped at random and the "
        "others weigh twice; above it, all are kept. Below it: the samples that each of 30 epochs trains: all in the "
        "first, about two thirds in the pruned ones, all in the last four. Right: training ranks push scores to a "
        "score server, receive plans, and read only the kept samples of their shards.",
    )
    _histogram(picture, left=40, top=36, width=520, height=190)
    _epochs(picture, left=40, top=292, width=520, height=96)
    _service(picture, left=604, top=22)
    return picture.text()


def _histogram(picture: Picture, *, left: float, top: float, width: float, height: float) -> None:
    with open(DATA / "demo_scores.csv", newline="") as file:
        rows = [(float(row["score"]), row["kept"] == "1") for row in csv.DictReader(file)]
    mean = sum(score for score, _ in rows) / len(rows)
    counts = [[0, 0] for _ in range(BINS)]
    for score, kept in rows:
        counts[min(BINS - 1, int(score / LARGEST * BINS))][kept] += 1
    tallest = max(map(sum, counts))
    bar, bottom = width / BINS, top + height
    for number, (pruned, kept) in enumerate(counts):
        x, high, low = left + number * bar, kept / tallest * height, pruned / tallest * height
        if kept:
            picture.box(x + 0.8, bottom - high, bar - 1.6, high, fill="kept", radius=1)
        if pruned:
            picture.box(x + 0.8, bottom - high - low, bar - 1.6, low, fill="pruned", radius=1)
    picture.line((left, bottom), (left + width, bottom), stroke="muted")
    cut = left + mean / LARGEST * width
    picture.line((cut, top - 8), (cut, bottom + 5), stroke="mark", width=2)
    picture.words(cut + 8, top + 1, "mean loss", color="mark", bold=True)
    picture.words(left, bottom + 18, "loss of a sample →", color="muted", size=12)
    picture.words(left + width, bottom + 18, "1,347 digits, epoch 6 of the demo", color="muted", size=12, anchor="end")
    picture.lines(cut + 50, top + 38, ["Above the mean: every sample is trained."], color="ink")
    picture.lines(
        cut + 50, top + 64, ["Below: a random half is skipped this epoch;", "the other half weighs 2 ×."], color="ink"
    )
    key = left + width - 164
    picture.box(key, top + 112, 12, 12, fill="kept", radius=2)
    picture.words(key + 18, top + 122.5, "trained", color="muted", size=12.5)
    picture.box(key + 84, top + 112, 12, 12, fill="pruned", radius=2)
    picture.words(key + 102, top + 122.5, "skipped", color="muted", size=12.5)


def _epochs(picture: Picture, *, left: float, top: float, width: float, height: float) -> None:
    with open(DATA / "demo_epochs.csv", newline="") as file:
        rows = [(int(row["kept"]), int(row["pruned"])) for row in csv.DictReader(file)]
    bar, bottom = width / len(rows), top + height
    for number, (kept, pruned) in enumerate(rows):
        x, high = left + number * bar, kept / (kept + pruned) * height
        picture.box(x + 1.5, top, bar - 3, height, fill="pruned", radius=2)
        picture.box(x + 1.5, bottom - high, bar - 3, high, fill="kept", radius=2)
    picture.line((left, bottom), (left + width, bottom), stroke="muted")
    saved = 1 - sum(kept for kept, _ in rows) / sum(map(sum, rows))
    pruned_epochs = [number for number, (_, pruned) in enumerate(rows) if pruned]
    first, last = left + pruned_epochs[0] * bar, left + (pruned_epochs[-1] + 1) * bar
    middle = (first + last) / 2
    picture.words(left, bottom + 20, "full", color="muted", size=12.5)
    picture.words(
        middle, bottom + 20, f"pruned: {saved:.1%} fewer samples in 30 epochs", size=12.5, anchor="middle", bold=True
    )
    picture.words(left + width, bottom + 20, "annealed", color="muted", size=12.5, anchor="end")
    picture.line((first + 2, top - 6), (first + 2, top - 12), (last - 2, top - 12), (last - 2, top - 6), stroke="rule")
    picture.words(middle, top - 18, "each epoch draws anew", color="muted", size=12, anchor="middle")


def _service(picture: Picture, *, left: float, top: float) -> None:
    width = 354
    picture.box(left, top, width, 92, fill="panel", stroke="server")
    picture.words(left + 18, top + 28, "Score server", color="server", bold=True, size=15)
    picture.lines(
        left + 18,
        top + 50,
        ["one score per sample, in an Arrow table;", "draws each epoch's plan, once, for all ranks"],
        color="muted",
    )
    ranks = top + 176
    for number in range(3):
        x = left + number * 122
        picture.box(x, ranks, 110, 86, fill="panel", stroke="training")
        picture.words(x + 55, ranks + 26, f"rank {number}", color="training", bold=True, anchor="middle", size=14)
        picture.lines(x + 55, ranks + 48, ["your training", "loop"], color="muted", anchor="middle", size=12.5)
        picture.arrow((x + 22, ranks), (x + 22, top + 92), stroke="pusher")
        picture.arrow((x + 86, top + 92), (x + 86, ranks), stroke="server")
    picture.words(left + 30, top + 138, "scores", color="pusher", size=12.5, bold=True)
    picture.words(left + 94, top + 138, "plan", color="server", size=12.5, bold=True)
    shards = ranks + 144
    for number in range(3):
        x = left + number * 122
        picture.arrow((x + 55, shards), (x + 55, ranks + 86), stroke="workers")
    picture.lines(left + 65, ranks + 110, ["only the kept", "samples"], color="workers", size=12.5, bold=True)
    picture.box(left, shards, width, 56, fill="panel", stroke="workers")
    for number in range(8):
        picture.box(left + 18 + number * 19, shards + 17, 13, 22, fill="workers", radius=2)
    picture.words(left + 186, shards + 33, "webdataset shards", color="workers", bold=True, size=14)
