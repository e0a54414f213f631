"""One epoch's life on two ranks and the server: open, batches, updates, EndEpoch, barrier, plan."""

from __future__ import annotations

from pictures.svg import Picture

__all__ = ["draw"]

_RANK_0, _SERVER, _RANK_1 = 80, 200, 320
"""The upper edges of the lanes."""
_START, _STEP, _LANE = 112, 88, 64


def draw() -> str:
    """The picture as SVG."""
    picture = Picture(
        980,
        448,
        "One epoch's life",
        "Two ranks open epoch t with the same plan. Each takes batches and updates them; their scores reach the server "
        "in the background. A rank that has updated its last batch sends EndEpoch. When the server has EndEpoch of "
        "every rank, the barrier, it draws the plan of epoch t+1, which both ranks then open.",
    )
    for name, y, color in (
        ("rank 0", _RANK_0, "training"),
        ("server", _SERVER, "server"),
        ("rank 1", _RANK_1, "training"),
    ):
        picture.box(16, y, 948, _LANE, fill="panel", radius=8)
        picture.words(32, y + 37, name, color=color, bold=True, size=14)
    _bracket(picture, _START, 796, "epoch t")
    _bracket(picture, 812, 950, "epoch t+1")
    ends = [_rank(picture, _RANK_0, step=_STEP), _rank(picture, _RANK_1, step=_STEP + 9)]
    _server(picture, ends)
    _legend(picture)
    return picture.text()


def _bracket(picture: Picture, start: float, end: float, text: str) -> None:
    picture.line((start, 66), (start, 56), (end, 56), (end, 66), stroke="rule", width=1.5)
    picture.words((start + end) / 2, 44, text, anchor="middle", bold=True)


def _rank(picture: Picture, y: float, *, step: float) -> float:
    """A rank's lane; returns where its EndEpoch is."""
    _block(picture, _START, y, 66, "open", "training")
    for number in range(4):
        x = _START + 76 + number * step
        _card(picture, x, y, step - 8)
        picture.words(x + (step - 8) / 2, y + 28, "batch", anchor="middle", size=12, color="workers", bold=True)
        picture.words(x + (step - 8) / 2, y + 44, "update", anchor="middle", size=12, color="pusher", bold=True)
    end = _START + 76 + 4 * step
    _block(picture, end, y, 82, "EndEpoch", "pusher")
    picture.line((end + 90, y + _LANE / 2), (804, y + _LANE / 2), stroke="rule", width=2, dashed=True)
    _block(picture, 812, y, 60, "open", "training")
    _card(picture, 880, y, 70)
    picture.words(915, y + 36, "batch …", anchor="middle", size=12, color="workers", bold=True)
    return end + 41


def _server(picture: Picture, ends: list[float]) -> None:
    y = _SERVER
    _block(picture, _START, y, 66, "plan t", "server")
    _card(picture, 188, y, 350)
    picture.words(363, y + 37, "scores enter the table in the background", anchor="middle", size=12.5, color="muted")
    _block(picture, 552, y, 106, "barrier", "mark")
    _block(picture, 700, y, 96, "plan t+1", "server")
    picture.arrow((658, y + 32), (697, y + 32), stroke="mark", width=1.6)
    down, up = (_RANK_0 + _LANE - 12, y + 9), (_RANK_1 + 12, y + _LANE - 9)
    for number in range(4):
        for (start, end), step in ((down, _STEP), (up, _STEP + 9)):
            x = _START + 76 + (number + 0.5) * step - 4
            if x < 530:
                picture.arrow((x, start), (x, end), stroke="pusher", width=1.4)
    for x, (start, end) in zip(ends, (down, up), strict=True):
        picture.arrow((x, start), (x, end), stroke="pusher", width=1.8)
    for x, plan in ((145, 145), (842, 748)):
        for rank, edge in ((_RANK_0 + _LANE - 10, y + 12), (_RANK_1 + 10, y + _LANE - 12)):
            middle = (rank + edge) / 2
            points = [(plan, edge), (x, rank)] if x == plan else [(plan, edge), (plan, middle), (x, middle), (x, rank)]
            picture.arrow(*points, stroke="server", width=1.8)


def _legend(picture: Picture) -> None:
    y = 420
    entries = [
        (30, "training", "loader.epochs() opens an epoch"),
        (270, "workers", "workers read a batch"),
        (445, "pusher", "the pusher sends scores, then EndEpoch"),
        (736, "mark", "waits for every rank"),
    ]
    for x, color, text in entries:
        picture.box(x, y - 11, 13, 13, fill=color, radius=3)
        picture.words(x + 20, y, text, size=12.5, color="muted")


def _card(picture: Picture, x: float, y: float, width: float) -> None:
    picture.box(x, y + 12, width, _LANE - 24, fill="card", stroke="rule", radius=5)


def _block(picture: Picture, x: float, y: float, width: float, text: str, color: str) -> None:
    picture.box(x, y + 12, width, _LANE - 24, fill=color, radius=5)
    picture.words(x + width / 2, y + 36.5, text, anchor="middle", size=12.5, color="on", bold=True)
