"""Runs a function on several ranks on this machine, and stops all ranks if one fails."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess, active_children
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from infobatch_stream.errors import InfoBatchError, RanksError

__all__ = ["on_ranks"]

T = TypeVar("T")

_BEFORE_SIGINT_S = 2.0  # Ctrl-C reaches the ranks too, so they may exit without our SIGINT
_AFTER_SIGINT_S = 8.0  # an interrupted loader flushes for at most 5 s


def on_ranks(nproc: int, work: Callable[..., T], *args: Any) -> T:
    """Calls `work(*args)` on each of `nproc` ranks and returns the result of rank 0.

    A single rank runs in this process, without torch.distributed. Several ranks run in child processes, with
    torch.distributed initialised over gloo on the loopback interface. No child outlives this call, however it ends.

    Args:
        nproc: number of ranks, at least 1.
        work: a function; it, its arguments and its result must be picklable.
        args: the arguments, the same for every rank.

    Raises:
        RanksError: a rank failed or was killed; the message names the rank and the reason.
    """
    if nproc == 1:
        return work(*args)
    other_children = set(active_children())
    with tempfile.TemporaryDirectory(prefix="infobatch-ranks-") as path:
        folder = Path(path)
        try:
            context = start_processes(_rank, (nproc, folder, work, args), nproc, join=False)  # type: ignore[no-untyped-call]
            processes: list[BaseProcess] = context.processes
            # The list is computed once per round: a wait for an empty list would never end.
            while running := [process for process in processes if process.exitcode is None]:
                wait([process.sentinel for process in running])
                if any(process.exitcode for process in processes):
                    break
            outcome: T = _outcome(processes, folder)
            return outcome
        finally:
            _stop(child for child in active_children() if child not in other_children)


def _rank(rank: int, nproc: int, folder: Path, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())  # other machines must not reach gloo's ports
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=nproc)
        outcome = work(*args)
        if rank == 0:
            (folder / "outcome").write_bytes(pickle.dumps(outcome))
        dist.destroy_process_group()
    except Exception as error:
        report = str(error) if isinstance(error, InfoBatchError) else "".join(traceback.format_exception(error))
        try:
            # Only the first failure is kept: the other ranks fail because of it.
            with open(folder / "failed", "x") as file:
                file.write(f"rank {rank} of {nproc}: {report}")
        except FileExistsError:
            pass
        os._exit(1)  # torch would print the traceback again, and closing a broken group can take long


def _outcome(processes: list[BaseProcess], folder: Path) -> Any:
    for rank, process in enumerate(processes):
        if process.exitcode is not None and process.exitcode < 0:
            name = signal.Signals(-process.exitcode).name
            raise RanksError(f"rank {rank} of {len(processes)} was killed by {name}; the others were stopped")
    if (failed := folder / "failed").exists():
        raise RanksError(failed.read_text())
    if not (outcome := folder / "outcome").exists():
        raise RanksError("a rank was interrupted; the others were stopped")
    return pickle.loads(outcome.read_bytes())


def _stop(processes: Iterable[BaseProcess]) -> None:
    alive = _still_alive(processes, _BEFORE_SIGINT_S)
    for process in alive:
        if process.pid is not None:
            os.kill(process.pid, signal.SIGINT)
    for process in _still_alive(alive, _AFTER_SIGINT_S):
        process.kill()
        process.join()


def _still_alive(processes: Iterable[BaseProcess], timeout_s: float) -> list[BaseProcess]:
    deadline = time.monotonic() + timeout_s
    to_join = list(processes)
    for process in to_join:
        process.join(max(0.0, deadline - time.monotonic()))
    return [process for process in to_join if process.is_alive()]


def _loopback() -> str:
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), names[0])
