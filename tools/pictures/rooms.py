"""The rooms of the code and the arrows between them, from the table that the tests hold the code to."""

from __future__ import annotations

import ast
from pathlib import Path

from pictures import layers
from pictures.svg import Picture

__all__ = ["arrows", "draw"]

TABLE = Path(__file__).parents[2] / "tests" / "core" / "test_architecture.py"
SIDES = {
    "client": ("training", "infobatch_client"),
    "server": ("server", "infobatch_server"),
    "core": ("workers", "infobatch_stream"),
}
ROOM_HEIGHT, FLOOR_HEIGHT = 32, 60


def arrows() -> dict[str, list[str]]:
    """Room → the rooms that it imports from, as the table ARROWS has them."""
    for node in ast.parse(TABLE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ARROWS":
            return {room: below.split() for room, below in ast.literal_eval(node.value).items()}
    raise LookupError(f"no ARROWS in {TABLE}")


def draw() -> str:
    """The picture as SVG."""
    table = arrows()
    inside = {side: _inside(table, side) for side in SIDES}
    floors = {side: layers.floors(rooms) for side, rooms in inside.items()}
    height = 230 + (len(floors["server"]) + len(floors["core"])) * FLOOR_HEIGHT
    picture = Picture(
        980,
        height,
        "The rooms of the code",
        "The rooms of client, server and core, and which imports which. Client and server import the core and never "
        "each other; there is no circle. An arrow that others imply is left out.",
    )
    bottom = height - 44
    core_top = bottom - len(floors["core"]) * FLOOR_HEIGHT - 50
    _side(picture, "client", inside, floors, x=20, y=24, width=520, bottom=bottom)
    _side(picture, "server", inside, floors, x=572, y=24, width=388, bottom=core_top - 34)
    _side(picture, "core", inside, floors, x=572, y=core_top, width=388, bottom=bottom)
    for side, points in (
        ("client", ((540, core_top + 60), (570, core_top + 60))),
        ("server", ((766, core_top - 34), (766, core_top - 2))),
    ):
        if any(
            below.startswith("core/") for room, under in table.items() if room.startswith(f"{side}/") for below in under
        ):
            picture.arrow(*points, stroke="ink", width=3)
    picture.words(
        20,
        height - 16,
        "Every arrow points down: from a room to one that it imports. Arrows that others imply are left out.",
        color="muted",
        size=12.5,
    )
    return picture.text()


def _inside(table: dict[str, list[str]], side: str) -> dict[str, set[str]]:
    """The side's rooms, with the arrows that stay inside it."""
    return {
        room.partition("/")[2]: {below.partition("/")[2] for below in under if below.startswith(f"{side}/")}
        for room, under in table.items()
        if room.startswith(f"{side}/")
    }


def _side(
    picture: Picture,
    side: str,
    inside: dict[str, dict[str, set[str]]],
    floors: dict[str, list[list[str]]],
    *,
    x: float,
    y: float,
    width: float,
    bottom: float,
) -> None:
    color, package = SIDES[side]
    picture.box(x, y, width, bottom - y, fill="panel", stroke=color, radius=10)
    picture.words(x + 16, y + 25, side, color=color, bold=True, size=15)
    picture.words(x + 84, y + 25, package, color="muted", mono=True, size=12)
    boxes = {}
    floor_height = (bottom - y - 50) / len(floors[side])
    for level, row in enumerate(floors[side]):
        slot = (width - 24) / len(row)
        for number, room in enumerate(row):
            wide = min(slot - 10, 24 + 8 * len(room))
            centre = x + 12 + (number + 0.5) * slot
            boxes[room] = (centre, bottom - 16 - ROOM_HEIGHT - level * floor_height, wide)
    for room, under in layers.direct(inside[side]).items():
        for below in sorted(under):
            (x0, y0, _), (x1, y1, _) = boxes[room], boxes[below]
            start, end = (x0, y0 + ROOM_HEIGHT), (x1, y1 - 1)
            bend = (end[1] - start[1]) * 0.5
            picture.path(
                f"M{x0:.1f} {start[1]:.1f} C{x0:.1f} {start[1] + bend:.1f} {x1:.1f} {end[1] - bend:.1f} "
                f"{x1:.1f} {end[1] - 6:.1f}",
                stroke="rule",
                width=1.6,
            )
            picture.arrow((end[0], end[1] - 7), end, stroke="muted", width=1.2)
    for room, (centre, top, wide) in boxes.items():
        picture.box(centre - wide / 2, top, wide, ROOM_HEIGHT, fill="card", stroke=color)
        picture.words(centre, top + 21, room, anchor="middle", size=13)
