"""Two ranks in threads of one process, which meet by a function instead of torch.distributed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

__all__ = ["TwoRanks"]


class TwoRanks:
    """Ranks that agree by an exchange of their texts; `meetings` counts the exchanges of each."""

    def __init__(self) -> None:
        self.meetings = [0, 0]
        self._both = threading.Barrier(2)
        self._texts = ["", ""]

    def run(self, act: Callable[[int, Callable[[str], list[str]]], Any]) -> list[Future[Any]]:
        """`act(rank, agree)` of both."""
        with ThreadPoolExecutor(2) as pool:
            return [pool.submit(act, rank, partial(self._agree, rank)) for rank in range(2)]

    def _agree(self, rank: int, text: str) -> list[str]:
        self.meetings[rank] += 1
        self._texts[rank] = text
        self._both.wait(30)
        answer = list(self._texts)
        self._both.wait(30)
        return answer
