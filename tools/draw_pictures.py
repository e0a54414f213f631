"""Draws docs/pictures/*.svg from tools/docs/*.csv, from the table of arrows in the tests, and from text.

    python tools/draw_pictures.py             # or: make pictures
    python tools/draw_pictures.py --check     # draws nothing; fails if a picture is not what this would draw

Needs Python alone. The same inputs give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from pictures import epoch_life, overview, rooms, step

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
PICTURES = {"overview": overview.draw, "step": step.draw, "epoch-life": epoch_life.draw, "rooms": rooms.draw}


def main() -> int:
    """Draws, or checks; 1 if a picture is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a picture is stale")
    check = parser.parse_args().check
    FOLDER.mkdir(exist_ok=True)
    stale = []
    for name, draw in PICTURES.items():
        path, text = FOLDER / f"{name}.svg", draw()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"stale: {', '.join(stale)}; run `make pictures`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
