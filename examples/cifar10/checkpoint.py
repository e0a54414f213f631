"""Saves and restores everything that a training needs to go on as if it had never stopped."""

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
    """What has happened so far; part of the checkpoint."""

    step: int = 0
    """Optimizer steps."""
    elapsed_s: float = 0.0
    """Wall time of training and evaluation, over all starts."""
    trained: list[int] = field(default_factory=list)
    """Samples trained, per epoch."""
    kept_shares: list[float] = field(default_factory=list)
    """Of the data set, in each epoch's plan."""
    accuracies: list[float] = field(default_factory=list)
    """On the test shards, after each epoch."""


def save(path: Path, parts: dict[str, Stateful], history: History) -> None:
    """Writes `parts` and `history` to `path`, which holds either the old checkpoint or all of the new one."""
    state = {name: part.state_dict() for name, part in parts.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("wb") as file:
        torch.save({"parts": state, "history": asdict(history)}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`, its tensors on the CPU."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return checkpoint


def restore(checkpoint: dict[str, Any], parts: dict[str, Stateful]) -> History:
    """Loads each part's state, in the order of `parts`, and returns the history."""
    for name, part in parts.items():
        part.load_state_dict(checkpoint["parts"][name])
    return History(**checkpoint["history"])
