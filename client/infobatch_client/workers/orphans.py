"""No DataLoader worker outlives the process that started it, however that process ends."""

from __future__ import annotations

import multiprocessing
import os
import threading

__all__ = ["end_with_parent"]

_watching: set[int] = set()


def end_with_parent() -> None:
    """Called in a worker: from now on it ends with the process that started it.

    torch's own workers check whether the process that forked them is alive. Under "forkserver" that is the fork server,
    which lives as long as a worker does, so both would live for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid == os.getppid() or os.getpid() in _watching:
        return
    _watching.add(os.getpid())

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="infobatch-parent", daemon=True).start()
