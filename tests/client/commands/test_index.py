"""`infobatch index`, as typed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infobatch_client.shards.index_store import index_shards
from infobatch_stream.cli import main
from tests.shards import image_files, write_tar


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    return [str(write_tar(tmp_path / f"{n}.tar", image_files(10 * n, n + 1))) for n in range(3)]


def test_prints_the_data_set(shards: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", *shards]) == 0
    fingerprint = index_shards(shards).manifest.fingerprint.hex()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("shards       3 (")
    assert lines[1:] == ["samples      6", f"fingerprint  {fingerprint}"]


def test_quiet_prints_the_fingerprint_only(shards: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "--quiet", "--force", str(Path(shards[0]).parent)]) == 0
    assert capsys.readouterr().out == index_shards(shards).manifest.fingerprint.hex() + "\n"


def test_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", str(tmp_path / "no.tar")]) == 2
    assert "no.tar" in capsys.readouterr().err


def test_goes_on_after_bad_shards_names_each_and_fails(shards: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    good = index_shards([shards[2]]).manifest.fingerprint.hex()
    os.truncate(shards[0], 700)
    Path(shards[1]).write_bytes(b"")
    gone = shards[2].replace("2.tar", "gone.tar")
    assert main(["index", *shards, gone]) == 2
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1:] == ["samples      3", f"fingerprint  {good}"]
    *lines, total = [line for line in printed.err.splitlines() if line.startswith("infobatch: ")]
    assert [line.split(": ")[1] for line in lines] == [shards[0], shards[1], gone]
    assert total == "infobatch: 3 of 4 shards can't be used"


def test_names_all_bad_shards_if_there_is_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(70):
        (tmp_path / f"{number}.tar").write_bytes(b"")
    assert main(["index", "--quiet", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert all(f"/{number}.tar: at byte 0: the file ends" in printed.err for number in range(70))
