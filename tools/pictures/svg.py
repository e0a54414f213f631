"""A picture as SVG text: boxes, arrows and words in a palette that follows the reader's light or dark scheme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["Picture"]

Point = tuple[float, float]

# name: (light, dark)
PALETTE = {
    "paper": ("#ffffff", "#15191e"),
    "panel": ("#f3f6f8", "#1e242b"),
    "card": ("#ffffff", "#29313a"),
    "ink": ("#17212b", "#e8edf2"),
    "muted": ("#51606e", "#a6b3bf"),
    "rule": ("#c9d2da", "#46525e"),
    "kept": ("#0f8b8d", "#36c2b8"),
    "pruned": ("#c3ccd4", "#4d5a66"),
    "mark": ("#c2410c", "#fb923c"),
    "training": ("#2563c9", "#72a8ff"),
    "pusher": ("#8b3fc7", "#c793f5"),
    "workers": ("#1d7f43", "#58c983"),
    "server": ("#b4530a", "#f2a45a"),
    "on": ("#ffffff", "#10151a"),
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


class Picture:
    """Collects shapes; `text()` gives the file.

    Args:
        width, height: of the drawing, in user units, about a pixel each.
        title: what a screen reader says first.
        description: what it says then: what the picture shows.
    """

    def __init__(self, width: int, height: int, title: str, description: str) -> None:
        self.width, self.height = width, height
        self._title, self._description = title, description
        self._shapes: list[str] = []
        self.box(0.5, 0.5, width - 1, height - 1, fill="paper", stroke="rule", radius=10)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = "card",
        stroke: str | None = None,
        radius: float = 6,
        dashed: bool = False,
    ) -> None:
        """A rectangle with round corners."""
        kinds = f"f-{fill}" + (f" s-{stroke}" if stroke else "") + (" dashed" if dashed else "")
        self._shapes.append(
            f'<rect class="{kinds}" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" '
            f'rx="{_n(radius)}"/>'
        )

    def words(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 13,
        color: str = "ink",
        anchor: str = "start",
        bold: bool = False,
        mono: bool = False,
    ) -> None:
        """A line of text whose base line begins (or ends, or is centred) at (x, y)."""
        kinds = f"f-{color}" + (" b" if bold else "") + (" m" if mono else "")
        self._shapes.append(
            f'<text class="{kinds}" x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" text-anchor="{anchor}">'
            f"{escape(text, quote=False)}</text>"
        )

    def lines(
        self, x: float, y: float, texts: Sequence[str], *, size: float = 13, leading: float = 1.38, **style: object
    ) -> None:
        """Several lines of text, the first at y."""
        for number, text in enumerate(texts):
            self.words(x, y + number * size * leading, text, size=size, **style)  # type: ignore[arg-type]

    def line(self, *points: Point, stroke: str = "rule", width: float = 1, dashed: bool = False) -> None:
        """Straight pieces from point to point."""
        path = "M" + " L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        self.path(path, stroke=stroke, width=width, dashed=dashed)

    def path(self, path: str, *, stroke: str, width: float = 1, dashed: bool = False) -> None:
        """An SVG path, not filled."""
        kinds = f"line s-{stroke}" + (" dashed" if dashed else "")
        self._shapes.append(f'<path class="{kinds}" stroke-width="{_n(width)}" d="{path}"/>')

    def arrow(self, *points: Point, stroke: str = "muted", width: float = 2, dashed: bool = False) -> None:
        """Straight pieces with rounded corners and a head at the last point."""
        (x0, y0), (x1, y1) = points[-2:]
        long = math.hypot(x1 - x0, y1 - y0)
        ux, uy = (x1 - x0) / long, (y1 - y0) / long
        size = 4 + 2 * width
        neck = (x1 - ux * size * 0.8, y1 - uy * size * 0.8)
        self.path(_rounded([*points[:-1], neck]), stroke=stroke, width=width, dashed=dashed)
        left = (x1 - ux * size - uy * size * 0.5, y1 - uy * size + ux * size * 0.5)
        right = (x1 - ux * size + uy * size * 0.5, y1 - uy * size - ux * size * 0.5)
        corners = " ".join(f"{_n(x)},{_n(y)}" for x, y in ((x1, y1), left, right))
        self._shapes.append(f'<polygon class="f-{stroke}" points="{corners}"/>')

    def number(self, x: float, y: float, text: str, color: str) -> None:
        """A station's number in a disc."""
        self._shapes.append(f'<circle class="f-{color}" cx="{_n(x)}" cy="{_n(y)}" r="11"/>')
        self.words(x, y + 4.5, text, size=12.5, color="on", anchor="middle", bold=True)

    def text(self) -> str:
        """The file."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" height="{self.height}" role="img" aria-labelledby="title description">',
                f'<title id="title">{escape(self._title)}</title>',
                f'<desc id="description">{escape(self._description)}</desc>',
                f"<style>\n{_style()}\n</style>",
                *self._shapes,
                "</svg>\n",
            ]
        )


def _style() -> str:
    return "\n".join(
        [
            f"text {{ font-family: {FONT}; }}",
            f".m {{ font-family: {MONO}; }}",
            ".b { font-weight: 600; }",
            ".line { fill: none; stroke-linecap: round; stroke-linejoin: round; }",
            ".dashed { stroke-dasharray: 5 4; }",
            *_colors(0),
            "@media (prefers-color-scheme: dark) {",
            *_colors(1),
            "}",
        ]
    )


def _colors(scheme: int) -> list[str]:
    rules = []
    for name, values in PALETTE.items():
        rules += [f".f-{name} {{ fill: {values[scheme]}; }}", f".s-{name} {{ stroke: {values[scheme]}; }}"]
    return rules


def _rounded(points: Sequence[Point], radius: float = 8) -> str:
    path = f"M{_n(points[0][0])} {_n(points[0][1])}"
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        start, end = _towards(corner, before, radius), _towards(corner, after, radius)
        path += f" L{_n(start[0])} {_n(start[1])} Q{_n(corner[0])} {_n(corner[1])} {_n(end[0])} {_n(end[1])}"
    return path + f" L{_n(points[-1][0])} {_n(points[-1][1])}"


def _towards(point: Point, other: Point, distance: float) -> Point:
    long = math.hypot(other[0] - point[0], other[1] - point[1])
    share = min(0.5, distance / long)
    return point[0] + (other[0] - point[0]) * share, point[1] + (other[1] - point[1]) * share


def _n(value: float) -> str:
    """A coordinate, with at most two decimals and no zeros that say nothing."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
