"""A flood of log records is cut short, and counted."""

from __future__ import annotations

import logging

from infobatch_server.process.log_limit import LogLimit
from tests.server.conftest import Clock


def record(line: int, message: str = "refused") -> logging.LogRecord:
    return logging.LogRecord("server", logging.WARNING, "service.py", line, message, (), None)


def test_a_flood_from_one_line_of_code_is_cut_short_and_counted(clock: Clock) -> None:
    limit = LogLimit(3, period_s=60, clock=clock)
    assert [limit.filter(record(7)) for _ in range(10)] == [True] * 3 + [False] * 7
    assert limit.filter(record(8))  # another line of code
    clock.now += 60
    after = record(7)
    assert limit.filter(after)
    assert after.getMessage() == "refused (7 such lines before it were left out)"
    assert limit.filter(last := record(7))
    assert last.getMessage() == "refused"
