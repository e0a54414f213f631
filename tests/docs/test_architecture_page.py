"""ARCHITECTURE.md names functions and files that exist, each function in the file that its table says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
STATIONS = re.findall(r"^\| `([\w.]+)` \| ([\w/]+\.py) \|", TEXT, re.MULTILINE)
ENTRIES = re.findall(r"^\*\*`([\w.]+)`\*\* \((?:[^()`]*`\w+`, )?`([\w/]+\.py)`\)", TEXT, re.MULTILINE)
FOLDERS = (ROOT, ROOT / "infobatch_stream", ROOT / "client/infobatch_client", ROOT / "server/infobatch_server")


def definitions(file):
    """Functions, classes and methods of a file, as "name" and "Class.name"."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef))


@pytest.mark.parametrize(("name", "file"), STATIONS)
def test_a_station_is_defined_where_the_table_says(name, file):
    assert name in set(definitions(ROOT / file))


@pytest.mark.parametrize(("name", "file"), ENTRIES)
def test_an_entry_point_is_defined_where_the_text_says(name, file):
    assert name.replace("InfoBatchLoader.", "LossCalls.") in set(definitions(ROOT / file))


def test_the_walks_and_the_entry_points_are_found():
    assert len(STATIONS) >= 30
    assert [name for name, _ in ENTRIES] == [
        "draw_plan",
        "ScoreFeed.push",
        "ScoreTable.update",
        "ShardReader.samples",
        "TiedChain",
        "InfoBatchLoader.update",
    ]


@pytest.mark.parametrize("file", sorted(set(re.findall(r"`((?:\w+/)+\w+\.py)`", TEXT))))
def test_a_file_in_the_text_is_there(file):
    assert any((folder / file).is_file() for folder in FOLDERS)
