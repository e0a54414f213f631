"""How the ranks of a job exchange short texts: over a gloo group of our own, or by a function of the user's."""

from __future__ import annotations

import atexit
import os
import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist

from infobatch_stream.errors import RanksError

__all__ = ["Agree", "Exchange", "GlooExchange", "ReplicatedExchange", "UserExchange"]

Agree = Callable[[str], list[str]]

_MAX_POLL_S = 0.02
_SLACK_S = 5.0  # gloo has a time-out of its own, and knows more about the cause
_groups: dict[tuple[int, float, tuple[int, ...]], tuple[Any, Any]] = {}  # each with the world that it belongs to
_groups_lock = threading.Lock()


@atexit.register
def _destroy_groups() -> None:
    """A group whose threads still run when the interpreter exits would abort the process."""
    if dist.is_available() and dist.is_initialized():
        for (pid, *_), (world, group) in list(_groups.items()):
            if pid == os.getpid() and world is dist.group.WORLD:
                dist.destroy_process_group(group)
    _groups.clear()


class Exchange(Protocol):
    """All-gather of one short text a process."""

    def gather(self, word: str) -> list[str]:
        """Every process's word, in their order. All processes call it equally often.

        Raises:
            RanksError: one of them can't be reached, or didn't call in time.
        """


class GlooExchange:
    """Over a new gloo group of an existing group's members; the existing group may have any backend.

    The first call creates the group, on all members together. Loaders of the same members share it, since they open
    their epochs in the same order everywhere.

    Args:
        process_group: the group whose members talk.
        timeout_s: how long to wait for a member.
    """

    def __init__(self, process_group: Any, timeout_s: float) -> None:
        self._members = tuple(dist.get_process_group_ranks(process_group))
        self._timeout_s = timeout_s

    def gather(self, word: str) -> list[str]:
        """Every member's word, in the group's order. Ctrl-C interrupts the wait."""
        payload = word.encode()
        try:
            group = self._group()
            sizes = self._gather(group, torch.tensor([len(payload)], device="cpu"))
            padded = torch.zeros(max(int(size) for size in sizes), dtype=torch.uint8, device="cpu")
            padded[: len(payload)] = torch.from_numpy(np.frombuffer(payload, np.uint8).copy())
            parts = self._gather(group, padded)
        except BaseException as error:
            self._forget()  # a call of one side may still be under way
            if not isinstance(error, (RuntimeError, ValueError)):  # torch raises these for any failure
                raise
            raise RanksError(
                f"a rank of the {len(self._members)} has ended, or has not come within {self._timeout_s:g} s "
                f"(agree_timeout_s): see its own log ({_in_short(error)})"
            ) from error
        return [part[: int(size)].numpy().tobytes().decode() for part, size in zip(parts, sizes, strict=True)]

    def _gather(self, group: Any, tensor: torch.Tensor) -> list[torch.Tensor]:
        parts = [torch.empty_like(tensor) for _ in self._members]
        work = dist.all_gather(parts, tensor, group=group, async_op=True)
        pause_s, deadline = 0.0002, time.monotonic() + self._timeout_s + _SLACK_S
        while not work.is_completed():  # instead of wait(), which blocks signals
            if time.monotonic() >= deadline:
                raise RuntimeError("Wait timeout")
            time.sleep(pause_s)
            pause_s = min(_MAX_POLL_S, 1.5 * pause_s)
        work.wait()
        return parts

    def _group(self) -> Any:
        with _groups_lock:
            world, group = _groups.get(self._key, (None, None))
            if group is None or world is not dist.group.WORLD:  # a group ends with its world
                group = dist.new_group(
                    list(self._members),
                    timeout=timedelta(seconds=self._timeout_s),
                    backend="gloo",
                    use_local_synchronization=True,  # only the members take part
                )
                _groups[self._key] = dist.group.WORLD, group
            return group

    def _forget(self) -> None:
        """A group that has failed once can't be used again."""
        with _groups_lock:
            _groups.pop(self._key, None)

    @property
    def _key(self) -> tuple[int, float, tuple[int, ...]]:
        return os.getpid(), self._timeout_s, self._members


def _in_short(error: Exception) -> str:
    """The first sentence of torch's message, without the place in its sources."""
    text = re.sub(r"^\[[^]]*\.cc:\d+\] ", "", str(error).splitlines()[0] if str(error) else repr(error))
    return text.split(". ")[0][:160]


class UserExchange:
    """By a function of the user's, for jobs without torch.distributed.

    Args:
        agree: gives every rank's text in rank order for this rank's, such as mpi4py's `comm.allgather`.
        world_size: how many it must give.
    """

    def __init__(self, agree: Agree, world_size: int) -> None:
        self._agree = agree
        self._world_size = world_size

    def gather(self, word: str) -> list[str]:
        """The function's result, checked."""
        words = self._agree(word)
        if not isinstance(words, list) or len(words) != self._world_size or not all(isinstance(w, str) for w in words):
            raise RanksError(
                f"agree() gave {words!r:.200}: it must give a list of {self._world_size} texts, one of every rank, in "
                "rank order"
            )
        return words


class ReplicatedExchange:
    """Among all processes of a job in which several have the same batches: the first of each set speaks for it.

    Args:
        sets: among the first processes of every set; used by those alone.
        replicas: among the processes of this one's set.
        is_first: this process is its set's first.
    """

    def __init__(self, sets: Exchange, replicas: Exchange, *, is_first: bool) -> None:
        self._sets = sets
        self._replicas = replicas
        self._is_first = is_first

    def gather(self, word: str) -> list[str]:
        """Words of all processes, set by set."""
        words = "\n".join(self._replicas.gather(word))
        answer = ""
        if self._is_first:
            try:
                answer = "+" + "\n".join(self._sets.gather(words))
            except RanksError as error:
                answer = f"-{error}"
        answer = self._replicas.gather(answer)[0]
        if answer.startswith("-"):
            raise RanksError(answer[1:])
        return answer[1:].split("\n")
