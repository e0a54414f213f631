"""Ctrl-C anywhere in a loader's life, many times in one process: nothing of a life is left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.e2e.conftest import Server
from tests.e2e.training import make_loader, train_pass

ROUNDS = 20
LIFE = ("/infobatch_client/", "/torch/utils/data/")


@contextmanager
def interrupt_at(call: int) -> Iterator[list[int]]:
    """KeyboardInterrupt as the main thread enters its n-th function of ours or of DataLoader; counts them."""
    count, pid = [0], os.getpid()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        path = frame.f_code.co_filename
        # Python ignores exceptions in the handlers of a fork.
        if event != "call" or not any(part in path for part in LIFE) or path.endswith("/rpc/forks.py"):
            return
        if os.getpid() != pid:  # a worker
            sys.setprofile(None)
            return
        count[0] += 1
        if count[0] == call:
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        yield count
    finally:
        sys.setprofile(None)


def live(shards: str, url: str, run: str) -> None:
    """From the start of a run to its end, with workers, in the midst of an epoch too."""
    with make_loader(shards, url, run, 32, epochs=2, num_workers=2) as loader:
        for _ in loader.epochs():
            train_pass(loader, 5)


def left() -> dict[str, Any]:
    gc.collect()
    pid = os.getpid()
    deadline_s = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline_s:
        time.sleep(0.01)  # the workers have been told to end
    shared = [name for name in os.listdir("/dev/shm") if f"_{pid}_" in name or "infobatch" in name]
    return {
        "threads": Counter(thread.name.partition("-")[0] for thread in threading.enumerate()),
        "workers": len(multiprocessing.active_children()),
        "shared": shared,
        "plans": [str(path) for path in Path(tempfile.gettempdir()).glob("infobatch-plans-*")],
        "fds": len(os.listdir("/proc/self/fd")),
    }


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts file descriptors in /proc")
def test_interrupts_anywhere_leave_nothing_behind(
    server: Server, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # torch's half-made iterator has an error in its __del__; pytest would keep it, and with it the loader.
    ignored: list[type[BaseException] | None] = []  # by Python itself, as a generator that nobody holds ends
    monkeypatch.setattr(sys, "unraisablehook", lambda error: ignored.append(error.exc_type))
    with interrupt_at(-1) as calls:
        live(shards, server.url, "whole-life")
    before = left()
    assert before["workers"] == 0
    assert before["shared"] == before["plans"] == []
    num_interrupted = 0
    for number in range(ROUNDS):
        call = 1 + number * calls[0] // ROUNDS
        is_interrupted = False
        ignored.clear()
        with interrupt_at(call) as count:
            try:
                live(shards, server.url, f"life-{number}")
            except KeyboardInterrupt:
                is_interrupted = True
        # How often a loop waits differs from life to life, and a life may end before the call.
        assert is_interrupted == (count[0] >= call and KeyboardInterrupt not in ignored)
        num_interrupted += is_interrupted
    assert num_interrupted > ROUNDS // 2
    assert {run.job for run in server.runs()} == {""}  # no lease is held
    after = left()
    fds = after.pop("fds"), before.pop("fds")
    assert after == before
    assert fds[0] <= fds[1] + 2
