"""Ranks on one machine: rank 0's result is returned, and one rank's failure or an interrupt stops all."""

from __future__ import annotations

import os
import signal
from multiprocessing.process import active_children

import pytest
import torch
import torch.distributed as dist

from infobatch_client.demo.ranks import on_ranks
from infobatch_stream.errors import ConfigError, RanksError


def sum_of_ranks(start: int) -> tuple[int, int]:
    total = torch.tensor([start + dist.get_rank()])
    dist.all_reduce(total)
    return dist.get_rank(), int(total)


def wait_for_rank_one(act: str) -> None:
    """Rank 1 acts; the others wait for it in a collective."""
    if dist.get_rank() == 1:
        if act == "refuse":
            raise ConfigError("nothing is right")
        if act == "fail":
            raise ZeroDivisionError("of a user's")
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def interrupt_the_parent() -> None:
    """Rank 1 sends Ctrl-C to its parent process only; all ranks wait forever."""
    dist.barrier()
    if dist.get_rank() == 1:
        os.kill(os.getppid(), signal.SIGINT)
    signal.pause()


def own_pid() -> int:
    return os.getpid()


def test_rank_0_has_the_result() -> None:
    assert on_ranks(2, sum_of_ranks, 10) == (0, 21)


def test_one_rank_is_this_process() -> None:
    assert on_ranks(1, own_pid) == os.getpid()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("refuse", r"^rank 1 of 2: nothing is right$"),
        ("fail", r"(?s)^rank 1 of 2: Traceback.*wait_for_rank_one.*ZeroDivisionError: of a user's"),
        ("be killed", r"^rank 1 of 2 was killed by SIGKILL"),
    ],
)
def test_a_failing_rank_stops_all_with_its_error(act: str, message: str) -> None:
    with pytest.raises(RanksError, match=message):
        on_ranks(2, wait_for_rank_one, act)
    assert active_children() == []


def test_an_interrupt_stops_all() -> None:
    with pytest.raises(KeyboardInterrupt):
        on_ranks(2, interrupt_the_parent)
    assert active_children() == []
