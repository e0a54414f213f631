"""The numbers of the passes over a validation set in a plain DataLoader, on which all workers of a pass agree.

The loop's process isn't asked when a pass begins: its workers only know the seed that their DataLoader has drawn for
all of them, and how many passes they have begun since.
"""

from __future__ import annotations

import hashlib
import os
import time

from torch.utils.data import get_worker_info

from infobatch_client.user_warnings import warn_user
from infobatch_client.workers.pass_control import WARNED_OF_ORDER, PassControl
from infobatch_stream.errors import ConfigError

__all__ = ["PassNumbers"]

_PAUSE_S, _PATIENCE_S = 0.001, 120.0


class PassNumbers:
    """Counts the passes that begin in this process. For one thread; it pickles, and starts anew in another process."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._begun = 0

    def begin(self, control: PassControl, *, agree: bool, world_size: int) -> tuple[int, int]:
        """(number of the pass that begins now, passes that have begun in this process before it).

        Args:
            control: the memory that the workers of a pass share.
            agree: the order follows from the number, so that all workers must have the same one.
            world_size: on several ranks the number is 0: they may do different passes, and don't communicate.

        Raises:
            ConfigError: the first worker of the pass has begun none.
        """
        if self._pid != os.getpid():
            self._pid, self._begun = os.getpid(), 0
        begun, self._begun = self._begun, self._begun + 1
        if not agree:
            return begun, begun
        if world_size > 1:
            _warn_of_one_order(control)
            return 0, begun
        return _shared_number(control, begun), begun


def _shared_number(control: PassControl, begun: int) -> int:
    worker = get_worker_info()
    if worker is None:
        return control.number_pass()
    base_seed = worker.seed - worker.id
    key = hashlib.blake2b(f"{base_seed} {begun}".encode(), digest_size=8).digest()
    if control.made_here:  # the dataset was made in this worker: nothing but the seed is shared with the others
        return int.from_bytes(key[:2], "little")
    if (number := control.number_of(key)) is not None:
        return number  # a loop that seeds each pass alike
    if worker.id == 0:
        return control.number_pass(key)
    deadline_s = time.monotonic() + _PATIENCE_S
    while (number := control.number_of(key)) is None:
        if time.monotonic() > deadline_s:
            raise ConfigError(
                f"worker {worker.id} of {worker.num_workers} waited {_PATIENCE_S:.0f} s for worker 0 to begin its pass "
                "over the same dataset: all workers of a DataLoader must iterate over it, each once by pass"
            )
        time.sleep(_PAUSE_S)
    return number


def _warn_of_one_order(control: PassControl) -> None:
    """Once, at the second pass."""
    worker = get_worker_info()
    if (worker is None or worker.id == 0) and control.number_pass() > 0 and control.warn_once(WARNED_OF_ORDER):
        warn_user(
            "every pass over this validation set has the same order: on several ranks, call dataset.set_epoch(number) "
            "on all of them before each pass for another one, or pass shuffle=False",
        )
