"""A training under a policy of another distribution, in a process that has that distribution installed.

python foreign_policy_job.py SHARDS URL RUN SETTINGS OUT        SETTINGS: the policy's, as JSON
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from infobatch_stream.pruning.policies import Policy, find_policy

EPOCHS = 8


def loss_of(epoch: int, num_samples: int) -> np.ndarray:
    """The loss of each sample when it is trained in an epoch, float32 (N,)."""
    return np.random.default_rng(epoch).exponential(size=num_samples).astype(np.float32)


def confidence_of(epoch: int, num_samples: int) -> np.ndarray:
    """What is pushed beside it, float64 (N,)."""
    return np.random.default_rng(100 + epoch).exponential(size=num_samples)


def number(sample: dict[str, Any]) -> int:
    return int(sample["txt"])


def train(shards: str, url: str, run: str, policy: Policy | str, num_samples: int) -> list[list[list[float]]]:
    """Trains all epochs; the samples that each had, and their weights."""
    dataset = InfoBatchStreamDataset(shards, url=url, run=run, epochs=EPOCHS, policy=policy, seed=11).map(number)
    pushes = bool(getattr(policy, "confidence", False))
    epochs = []
    with InfoBatchLoader(dataset, batch_size=64) as loader:
        for epoch in loader.epochs():
            losses, confidence = loss_of(epoch, num_samples), confidence_of(epoch, num_samples)
            seen: list[list[float]] = []
            for numbers in loader:
                more = {"columns": {"average": torch.from_numpy(confidence[numbers])}} if pushes else {}
                loader.update(torch.from_numpy(losses[numbers]).requires_grad_(), **more)
                seen += [[int(i), float(w)] for i, w in zip(numbers, loader.weights(), strict=True) if w > 0]
            epochs.append(sorted(seen))
    return epochs


if __name__ == "__main__":
    shards, url, run, settings, out = sys.argv[1:]
    chosen: Policy | str = "drift" if settings == "null" else find_policy("drift")(**json.loads(settings))
    Path(out).write_text(json.dumps(train(shards, url, run, chosen, 1009)))
