"""What a server remembers of deleted runs."""

from __future__ import annotations

import pytest

from infobatch_server.runs.deleted_runs import DeletedRuns
from tests.server.conftest import Clock


def test_the_newest_1024_deletions_are_remembered(clock: Clock) -> None:
    runs = DeletedRuns(clock)
    for number in range(1500):
        runs.add(number.to_bytes(16, "little"), f"run-{number % 1000}", "")
    found = [number for number in range(1500) if runs.by_id(number.to_bytes(16, "little"))]
    assert found == list(range(1500 - 1024, 1500))
    assert runs.by_name("run-475") == runs.by_id((1475).to_bytes(16, "little"))
    assert runs.by_name("run-1000") is None


@pytest.mark.parametrize(
    ("later_s", "age"), [(0.2, "0 s"), (119.0, "119 s"), (121.0, "2 min"), (7199.0, "120 min"), (9000.0, "2 h")]
)
def test_a_deletion_says_how_long_ago_it_was(later_s: float, age: str, clock: Clock) -> None:
    runs = DeletedRuns(clock)
    runs.add(bytes(16), "r", "someone")
    found = runs.by_id(bytes(16))
    assert found is not None
    assert found.describe(clock.now + later_s) == f"run 'r' was deleted {age} ago by someone"
