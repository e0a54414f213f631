"""Plans as files: written whole, mapped by workers, and removed with the process that owns them."""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import tempfile
import weakref
from collections import deque
from pathlib import Path
from typing import IO

from infobatch_stream.plan.bytes import plan_from_buffer, plan_to_bytes
from infobatch_stream.plan.epoch_plan import EpochPlan

__all__ = ["PlanFiles", "map_plan"]

_PREFIX = "infobatch-plans-"
_LOCK = "in-use"


class PlanFiles:
    """A folder of plan files, removed with this object; a new one removes the folders of processes that were killed.

    The owner locks its folder, so that a folder that isn't locked has no owner any more.
    """

    def __init__(self) -> None:
        _remove_abandoned()
        self._folder, lock = _locked_folder()
        self._stored: deque[str] = deque(maxlen=2)
        self._cleanup = weakref.finalize(self, _remove, self._folder, lock, os.getpid())

    def store(self, plan: EpochPlan) -> str:
        """Writes a plan whole (temporary name, then rename), and returns its path."""
        path = self._folder / plan.plan_id.replace(":", "_")
        if not path.exists():
            draft = path.with_suffix(".part")
            with open(draft, "wb") as file:
                for piece in plan_to_bytes(plan):
                    file.write(piece)
            draft.rename(path)
        if str(path) not in self._stored:
            self._stored.append(str(path))
        return str(path)

    def adopt(self, path: str, plan_id: str) -> str:
        """Links or copies another process's file of a plan into this folder, and returns the path here.

        Raises:
            OSError: it can't be read.
        """
        link = self._folder / plan_id.replace(":", "_")
        if not link.exists():
            try:
                os.link(path, link)
            except OSError:
                draft = link.with_suffix(".part")
                shutil.copyfile(path, draft)
                draft.rename(link)
        if str(link) not in self._stored:
            self._stored.append(str(link))
        return str(link)

    def keep_newest(self) -> None:
        """Removes every plan but the last two: a worker may be about to map the one before the last."""
        for other in self._folder.iterdir():
            if str(other) not in self._stored and other.name != _LOCK:
                other.unlink()

    def close(self) -> None:
        """Removes the folder."""
        self._cleanup()


def map_plan(path: str) -> EpochPlan:
    """The plan in a file, its arrays mapped."""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return plan_from_buffer(memoryview(mapped))


def _locked_folder() -> tuple[Path, IO[bytes]]:
    """A new folder and its open lock file; tries again if another process removes it before it is locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = open(folder / _LOCK, "wb")  # noqa: SIM115 (open until the folder is removed)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / _LOCK).exists():
            return folder, lock
        lock.close()


def _remove(folder: Path, lock: IO[bytes], pid: int) -> None:
    lock.close()
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned() -> None:
    """Removes the folders of this user's processes that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            with open(path, "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:
            continue  # in use, another user's, or just removed by another process
