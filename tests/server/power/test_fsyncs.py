"""Each sync is needed: a program that lacks one loses something in a power cut. docs/durability.md lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.server.power.cuts import Lost, PowerCuts
from tests.server.power.life import Life, Program

DOCS = Path(__file__).parents[3] / "docs" / "durability.md"

# What lacks, and what is lost.
SYNCS = {
    "durable._open files.sync_parents sync_folder": "is missing",
    "durable._open sync_folder": "can't be loaded",
    "run_files.make files.write_file sync": "can't be loaded",
    "run_files.make files.write_file sync_folder": "can't be loaded",
    "run_files.make sync_folder": "can't be loaded",
    "run_files.write_plan files.write_file sync": r"plan-.* (can't be read|is damaged)",
    "run_files.write_plan files.write_file sync_folder": r"plan-.* can't be read: .*No such file",
    "segments.write_segment files.write_file sync": r"scores-.* is damaged",
    "segments.write_segment files.write_file sync_folder": r"scores-.* can't be read: No such file",
}


@pytest.mark.parametrize("sync", SYNCS)
def test_a_store_that_lacks_a_sync_of_its_files_loses_something(tmp_path: Path, sync: str) -> None:
    with pytest.raises(Lost, match=SYNCS[sync]):
        PowerCuts(tmp_path, 1, program=Program(forgets=sync)).run(1000)


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_a_store_that_has_sqlite_sync_less_loses_what_was_acknowledged(tmp_path: Path, synchronous: str) -> None:
    with pytest.raises(Lost, match=r"differs from what it should be|image is malformed"):
        PowerCuts(tmp_path, 1, program=Program(synchronous=synchronous)).run(1000)


def test_the_list_of_syncs_is_complete_and_documented(tmp_path: Path) -> None:
    life = Life(tmp_path, 1)
    for _ in range(60):
        life.step()
    life.close()
    assert {next(sync for sync in SYNCS if seen.endswith(sync)) for seen in life.files.seen} == set(SYNCS)
    rows = re.findall(r"^\| `([^`]+)` \|", DOCS.read_text(), re.MULTILINE)
    assert set(rows) >= {sync.replace("files.write_file ", "write_file ") for sync in SYNCS}
