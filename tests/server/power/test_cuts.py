"""Whatever a power cut leaves of what wasn't synced, what was answered is recovered. `make crash-test` does more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.column_policy import COLUMNS, install_columns
from tests.server.power.cuts import PowerCuts


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_answered_is_recovered_from_every_disk_that_a_power_cut_may_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    install_columns(tmp_path / "installed")
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    counts = PowerCuts(tmp_path, seed, ("infobatch", COLUMNS)).run(500)
    for name in ("push 1", "save segment", "freeze plan", "attach", "create", "recover", "end epoch"):
        assert counts[name], (name, counts)
