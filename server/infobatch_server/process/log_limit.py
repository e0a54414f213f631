"""Bounds the lines of a log: clients can cause most of them, and a disk is finite."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

__all__ = ["LogLimit"]

_MAX_PLACES = 4096


class LogLimit(logging.Filter):
    """Lets so many records of each line of code through in a period; the next one says how many were left out.

    Args:
        max_records: in one period, of one line of code.
        period_s: seconds.
        clock: monotonic clock, in seconds.
    """

    def __init__(
        self, max_records: int = 100, period_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._max_records = max_records
        self._period_s = period_s
        self._clock = clock
        self._lock = threading.Lock()
        self._periods: dict[tuple[str, int], tuple[float, int]] = {}  # start, records

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        place, now_s = (record.pathname, record.lineno), self._clock()
        with self._lock:
            start_s, records = self._periods.get(place, (now_s, 0))
            left_out = 0
            if now_s - start_s >= self._period_s:
                left_out, start_s, records = max(0, records - self._max_records), now_s, 0
            if place in self._periods or len(self._periods) < _MAX_PLACES:
                self._periods[place] = start_s, records + 1
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} such lines before it were left out)", ()
        return records < self._max_records
