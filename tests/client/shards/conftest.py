"""Three shards, and a cache folder of their own, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shards import image_files, write_tar


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    folder = tmp_path / "data"
    folder.mkdir()
    return [str(write_tar(folder / f"{n}.tar", image_files(10 * n, n + 1))) for n in range(3)]
