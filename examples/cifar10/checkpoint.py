"""Saves and restores the complete state of a training, so that it resumes as if it had never stopped."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass
class History:
    """The history of a training; part of the checkpoint."""

    step: int = 0
    """Optimizer steps so far."""
    elapsed_s: float = 0.0
    """Wall time of training and evaluation in seconds, over all starts."""
    trained: list[int] = field(default_factory=list)
    """Samples trained in each epoch."""
    kept_shares: list[float] = field(default_factory=list)
    """Kept share of the data set in each epoch's plan, in [0, 1]."""
    accuracies: list[float] = field(default_factory=list)
    """Accuracy on the test shards after each epoch, in [0, 1]."""


def save(path: Path, parts: dict[str, Stateful], history: History) -> None:
    """Writes `parts` and `history` to `path` atomically: after a failure, `path` has the old checkpoint."""
    state = {name: part.state_dict() for name, part in parts.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("wb") as file:
        torch.save({"parts": state, "history": asdict(history)}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read(path: Path) -> dict[str, Any]:
    """Reads the checkpoint at `path`, with all tensors on the CPU."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return checkpoint


def restore(checkpoint: dict[str, Any], parts: dict[str, Stateful]) -> History:
    """Loads each part's state, in the order of `parts`, and returns the history."""
    for name, part in parts.items():
        part.load_state_dict(checkpoint["parts"][name])
    return History(**checkpoint["history"])
