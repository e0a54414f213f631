"""What the loop tells its DataLoader workers about the epoch: a small shared memory that outlives an epoch.

Persistent workers are forked or spawned once; they read this at the start of every pass.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch

__all__ = ["EpochControl", "Pass"]

_SIZE_BYTES = 8192


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


class EpochControl:
    """Shared between a loop and its workers: written by the one before a pass, read by the others at its start.

    Pickles into a worker by handle, as torch shares tensors.
    """

    def __init__(self) -> None:
        self._bytes = torch.zeros(_SIZE_BYTES, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]

    def write(self, given: Pass) -> None:
        """Sets what the next pass reads."""
        text = json.dumps(asdict(given)).encode()
        assert len(text) < _SIZE_BYTES - 4, "a plan's path is far below 8 KB"
        framed = len(text).to_bytes(4, "little") + text
        self._bytes[: len(framed)] = torch.frombuffer(bytearray(framed), dtype=torch.uint8)

    def read(self) -> Pass:
        """What the loop wrote last."""
        raw = self._bytes.numpy().tobytes()
        return Pass(**json.loads(raw[4 : 4 + int.from_bytes(raw[:4], "little")]))
