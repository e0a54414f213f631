"""What the loop tells its DataLoader workers about the epoch: a small shared memory that outlives an epoch.

Persistent workers are forked or spawned once; they read this at the start of every pass.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["Pass", "PassControl"]

_SIZE_BYTES = 8192
_MAX_WORKERS = 1024  # a larger copy takes threads that torch, in a process forked after using them, waits for in vain


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass over an epoch.

    Args:
        epoch: the epoch.
        plan_path: the plan's file; "" for all samples in index order.
        start: global positions consumed before this pass.
        batch_size: rows by rank and step.
        rank: of this process.
        world_size: ranks.
        drop_remainder: leaves out the last positions that don't fill a step.
    """

    epoch: int
    plan_path: str
    start: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    drop_remainder: bool = False


class PassControl:
    """Shared between a loop and its workers: written by the one before a pass, read by the others at its start.

    Pickles into a worker by handle, as torch shares tensors; a copy by other means shares nothing, and is empty.
    """

    def __init__(self) -> None:
        self._bytes = _shared(_SIZE_BYTES, dtype=torch.uint8)
        self._loaded = _shared(_MAX_WORKERS, 3, dtype=torch.int64)
        self._updated_at_start = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_updated_at_start": self.updated}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["_bytes"].is_shared():
            self.__dict__.update(state)
        else:
            PassControl.__init__(self)

    def write(self, given: Pass) -> None:
        """Sets what the next pass reads."""
        text = json.dumps(asdict(given)).encode()
        assert len(text) < _SIZE_BYTES - 5, "a plan's path is far below 8 KB"
        framed = len(text).to_bytes(4, "little") + text
        self._bytes[: len(framed)] = torch.from_numpy(np.frombuffer(framed, np.uint8).copy())
        self._bytes[-1] = 0
        self._loaded.zero_()
        self._updated_at_start = False

    def read(self) -> Pass:
        """What the loop wrote last."""
        raw = self._bytes.numpy().tobytes()
        return Pass(**json.loads(raw[4 : 4 + int.from_bytes(raw[:4], "little")]))

    @property
    def written(self) -> bool:
        """Whether the loop has written anything yet."""
        return bool(self._bytes[:4].any())

    def mark_updated(self) -> None:
        """A batch of the pass was updated: from now on, a second pass would train samples twice."""
        self._bytes[-1] = 1
        self._updated_at_start = True

    @property
    def updated(self) -> bool:
        """Whether a batch was updated, as far as is known now."""
        return bool(self._bytes[-1])

    @property
    def updated_at_start(self) -> bool:
        """Whether a batch had been updated when this process was forked or this object was pickled into it.

        The workers of one pass start while the loop trains on the first batches of the faster ones, so that a worker's
        first pass can't go by `updated`.
        """
        return self._updated_at_start

    def note_loaded(self, worker: int, batches: int, turns: int) -> None:
        """A worker has loaded a state: it gave `batches` of the pass, and took `turns` since the loader's first."""
        self._loaded[worker] = torch.tensor([1, batches, turns], device="cpu")

    @property
    def any_loaded(self) -> bool:
        """Whether a worker has loaded a state since the last `write`."""
        return bool(self._loaded[:, 0].any())

    @property
    def loaded(self) -> tuple[int, int]:
        """(batches, turns) of all workers together."""
        _, batches, turns = self._loaded.sum(0).tolist()
        return batches, turns


def _shared(*size: int, dtype: torch.dtype) -> torch.Tensor:
    zeros: torch.Tensor = torch.zeros(*size, dtype=dtype, device="cpu").share_memory_()  # type: ignore[no-untyped-call]
    return zeros
