"""The pictures are those that the command draws, and say what the code and the recorded training say."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from tests.core.test_architecture import ARROWS
from tests.docs.blocks import PAGES, ROOT

FOLDER = ROOT / "docs" / "pictures"
PICTURES = sorted(path.name for path in FOLDER.iterdir())
SVG = "{http://www.w3.org/2000/svg}"


def texts(name: str, kind: str = "") -> list[str]:
    """The lines of text in a picture; those of a class, if one is named."""
    root = ElementTree.fromstring((FOLDER / name).read_text(encoding="utf-8"))
    return [text.text or "" for text in root.iter(f"{SVG}text") if not kind or kind in text.get("class", "").split()]


def test_the_pictures_are_what_the_command_draws() -> None:
    command = [sys.executable, str(ROOT / "tools" / "draw_pictures.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_alone_and_follows_the_readers_scheme(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        *("svg", "title", "desc", "style", "rect", "text", "path", "polygon", "circle")
    }
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert "url(" not in text
    assert "@media (prefers-color-scheme: dark)" in text
    used = {kind for element in root.iter() for kind in element.get("class", "").split() if kind[:2] in ("f-", "s-")}
    assert all(text.count(f".{kind} {{") == 2 for kind in used), "each color is defined twice: light and dark"


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_in_a_page_with_words_for_those_who_cannot_see_it(name: str) -> None:
    alternatives = re.findall(
        rf"!\[([^\]]+)\]\((?:docs/)?pictures/{name}\)", "\n".join(page.read_text() for page in PAGES)
    )
    assert alternatives
    assert all(len(words) > 40 for words in alternatives)


def test_the_names_in_the_picture_of_a_step_are_names_of_the_code() -> None:
    code = "\n".join(
        path.read_text()
        for folder in ("client", "server", "infobatch_stream", "proto")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".proto")
    )
    words = {word for line in texts("step.svg", "m") for word in re.findall(r"[A-Za-z_]{4,}", line)} - {
        "batch",
        "losses",
    }
    assert {"ScorePusher", "TiedChain", "PushScores"} <= words
    for word in words:
        assert re.search(rf"(class|def|rpc) {word}\b", code) or word == "model", word


def test_the_rooms_are_those_of_the_table() -> None:
    assert {room.partition("/")[2] for room in ARROWS} <= set(texts("rooms.svg"))


def test_readme_and_picture_have_the_recorded_figures() -> None:
    with open(ROOT / "tools" / "docs" / "demo_epochs.csv", newline="") as file:
        epochs = [(int(row["kept"]), int(row["pruned"])) for row in csv.DictReader(file)]
    trained, full = sum(kept for kept, _ in epochs), sum(map(sum, epochs))
    readme = (ROOT / "README.md").read_text()
    assert f"{full:,} " in readme
    assert f"{trained:,} ({1 - trained / full:.1%} fewer)" in readme
    assert any(f"{1 - trained / full:.1%} fewer" in line for line in texts("overview.svg"))
