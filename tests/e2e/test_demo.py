"""`infobatch demo` as a stranger runs it, only shorter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")


def demo(*options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infobatch_stream", "demo", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=240,
    )


def test_the_demo_compares_both_trainings(tmp_path: Path) -> None:
    done = demo("--epochs", "4", "--delta", "0.75", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {line[:20].strip(): line for line in done.stdout.splitlines()}
    assert "5,388" in rows["samples trained"]
    fewer = re.search(r"\((\d+\.\d)% fewer\)", rows["samples trained"])
    assert fewer is not None
    assert 5 < float(fewer[1]) < 45
    assert "of 450 wrong" in rows["test accuracy"]
    shares = [int(cell) for cell in rows["% pruned, epoch 0 to"][22:].split()]
    assert shares[:5] == [0, 0, 0, 0, 0]
    assert min(shares[5:7]) > 5
    assert shares[7] == 0
    assert "One seed proves nothing" in done.stdout
    assert "%|" not in done.stderr, "a progress bar is for a terminal"
    assert list(tmp_path.iterdir()) == []


def test_shards_and_state_are_kept_where_they_were_asked_for(tmp_path: Path) -> None:
    done = demo("--epochs", "1", "--keep", "kept", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "kept").iterdir()}
    assert {"train-0000.tar", "test-0001.tar", "state"} <= names
    again = demo("--epochs", "1", "--keep", "kept", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == "infobatch: --keep kept is not an empty folder: name another\n"
