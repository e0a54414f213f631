"""A server that is killed at random moments has lost nothing that it acknowledged. `make crash-test` does it longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.crash.rounds import crash


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_that_was_acknowledged_is_lost_when_the_server_is_killed(tmp_path: Path, seed: int) -> None:
    counts = crash(tmp_path, rounds=6, seed=seed)
    assert counts["killed"] == 6
    assert counts["pushes"] > 200, counts
    assert counts["plans compared"] > 10, counts
