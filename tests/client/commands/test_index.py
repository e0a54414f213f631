"""`infobatch index`, as typed."""

from __future__ import annotations

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
