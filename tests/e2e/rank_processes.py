"""Processes of tests, the ranks of a job among them: quick to start, each with a result or an error, easy to kill.

They come from a fork server that has imported torch. Ranks share a gloo world through a file.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch.distributed as dist

__all__ = ["Rank", "call_elsewhere", "kill_what_is_left", "start_process", "start_ranks"]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.e2e.torchrun", "infobatch_client.loader", "torch.nn.parallel"])
_started: list[Rank] = []


@dataclass
class Rank:
    """One process of a job."""

    process: BaseProcess
    answers: Connection

    def result(self, timeout_s: float = 60) -> Any:
        """What its function gave, or the text of what it raised, as "Type: message"."""
        if not self.answers.poll(timeout_s):
            stack = f"/proc/{self.process.pid}"
            raise AssertionError(f"{stack} has neither ended nor said anything for {timeout_s} s")
        try:
            return self.answers.recv()
        except EOFError:
            self.process.join(10)
            return f"exit {self.process.exitcode}"

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(10)

    def join(self, timeout_s: float = 30) -> None:
        """Waits for its end."""
        self.process.join(timeout_s)
        assert not self.process.is_alive(), f"pid {self.process.pid} is still there"


def start_ranks(
    act: Callable[..., Any],
    world_size: int,
    *args: Any,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 60,
) -> list[Rank]:
    """Starts `act(say, *args)` on every rank, torch.distributed initialised; `say` sends a word before the result."""
    store = Path(tempfile.mkdtemp(prefix="ranks-")) / "store"
    own = dict(environment or {})
    return [_start(_run, act, rank, world_size, str(store), timeout_s, own, args) for rank in range(world_size)]


def call_elsewhere(act: Callable[..., Any], *args: Any, timeout_s: float = 120, **named: Any) -> Any:
    """What `act(*args, **named)` gives in a process of its own, which has ended then, and is no rank of anything."""
    process = _start(_call, act, args, named)
    result = process.result(timeout_s)
    process.join()
    assert process.process.exitcode == 0, result
    return result


def start_process(act: Callable[..., Any], *args: Any) -> Rank:
    """Starts `act(*args)` in a process of its own, without a result."""
    return _start(_act, act, args)


def _start(target: Callable[..., None], *args: Any) -> Rank:
    answers, end = _context.Pipe(duplex=True)
    process = _context.Process(target=target, args=(end, *args))
    process.start()
    end.close()
    _started.append(Rank(process, answers))
    return _started[-1]


def kill_what_is_left() -> None:
    """Ends the processes that a test has left: most of them, once their result is there, end at this very moment."""
    while _started:
        rank = _started.pop()
        if rank.process.is_alive():
            rank.process.kill()  # unlike os.kill, no error where it has ended since
            rank.process.join(60)
        rank.answers.close()


def _act(answers: Connection, act: Callable[..., Any], args: tuple[Any, ...]) -> None:
    answers.close()
    multiprocessing.set_start_method("fork", force=True)
    act(*args)


def _call(answers: Connection, act: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    multiprocessing.set_start_method("fork", force=True)  # Python's default, as in a program that a user starts
    with answers:
        answers.send(act(*args, **named))


def _run(
    answers: Connection,
    act: Callable[..., Any],
    rank: int,
    world_size: int,
    store: str,
    timeout_s: float,
    environment: Mapping[str, str],
    args: tuple[Any, ...],
) -> None:
    os.environ.update({"GLOO_SOCKET_IFNAME": "lo", **environment})
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
        )
        dist.barrier()  # one that ends at once would tear the group down while the others still make it
        answers.send(act(answers, *args))
    except BaseException as error:
        traceback.print_exc()
        answers.send(f"{type(error).__name__}: {error}")
    finally:
        answers.close()
