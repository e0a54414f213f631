"""Runs a function on several ranks of this machine, which end together."""

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

_BY_THEMSELVES_S = 2.0  # Ctrl-C reaches the ranks too: they get so long before they are told again
_WHEN_TOLD_S = 8.0  # a loader that is interrupted flushes for at most 5 s


def on_ranks(nproc: int, work: Callable[..., T], *args: Any) -> T:
    """Calls `work(*args)` on each of `nproc` ranks, torch.distributed over gloo initialised, and returns rank 0's.

    One rank is this process, without torch.distributed; several are processes of their own, which talk over loopback.
    None of them outlives this call, whatever ends it.

    Args:
        nproc: at least 1.
        work: a function of a module, and with its arguments and result picklable.
        args: for every rank the same.

    Raises:
        RanksError: a rank has failed, or was killed; says which and why.
    """
    if nproc == 1:
        return work(*args)
    before = set(active_children())
    with tempfile.TemporaryDirectory(prefix="infobatch-ranks-") as made:
        folder = Path(made)
        try:
            context = start_processes(_rank, (nproc, folder, work, args), nproc, join=False)  # type: ignore[no-untyped-call]
            processes: list[BaseProcess] = context.processes
            # Looked at once a round: a wait for none of them would never end.
            while running := [process for process in processes if process.exitcode is None]:
                wait([process.sentinel for process in running])
                if any(process.exitcode for process in processes):
                    break
            outcome: T = _outcome(processes, folder)
            return outcome
        finally:
            _end(child for child in active_children() if child not in before)


def _rank(rank: int, nproc: int, folder: Path, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())  # nobody else has business at gloo's ports
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=nproc)
        outcome = work(*args)
        if rank == 0:
            (folder / "outcome").write_bytes(pickle.dumps(outcome))
        dist.destroy_process_group()
    except Exception as error:
        told = str(error) if isinstance(error, InfoBatchError) else "".join(traceback.format_exception(error))
        try:
            with open(folder / "failed", "x") as file:  # the first to fail; the others fail because of it
                file.write(f"rank {rank} of {nproc}: {told}")
        except FileExistsError:
            pass
        os._exit(1)  # torch would write the traceback again, and the end of a broken group can take its time


def _outcome(processes: list[BaseProcess], folder: Path) -> Any:
    for rank, process in enumerate(processes):
        if process.exitcode is not None and process.exitcode < 0:
            name = signal.Signals(-process.exitcode).name
            raise RanksError(f"rank {rank} of {len(processes)} was ended by {name}; the others were stopped")
    if (failed := folder / "failed").exists():
        raise RanksError(failed.read_text())
    if not (outcome := folder / "outcome").exists():
        raise RanksError("a rank was interrupted; the others were stopped")
    return pickle.loads(outcome.read_bytes())


def _end(processes: Iterable[BaseProcess]) -> None:
    alive = _still_alive(processes, _BY_THEMSELVES_S)
    for process in alive:
        if process.pid is not None:
            os.kill(process.pid, signal.SIGINT)
    for process in _still_alive(alive, _WHEN_TOLD_S):
        process.kill()
        process.join()


def _still_alive(processes: Iterable[BaseProcess], timeout_s: float) -> list[BaseProcess]:
    deadline = time.monotonic() + timeout_s
    left = list(processes)
    for process in left:
        process.join(max(0.0, deadline - time.monotonic()))
    return [process for process in left if process.is_alive()]


def _loopback() -> str:
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), names[0])
