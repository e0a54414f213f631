"""One rank of `test_same_for_all`: trains small runs and writes down the batches that it was given."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset, OrderChoice
from infobatch_stream.pruning.policies import make_policy

EPOCHS = 2
# name: global batch (0: one sample by rank), policy, settings, whether a stage drops samples
CASES: dict[str, tuple[int, str, dict[str, Any], bool]] = {
    "keep-10": (24, "random", {"prune_ratio": 0.9}, False),
    "keep-60": (24, "random", {"prune_ratio": 0.4, "draw": "exact"}, False),
    "keep-100": (24, "full", {}, False),
    "scored": (24, "infobatch", {"prune_ratio": 0.8}, False),
    "dropping": (12, "infobatch", {}, True),
    "dropping-whole-batches": (0, "infobatch", {}, True),
}
epoch_now = torch.zeros(1, dtype=torch.int64).share_memory_()


def is_dropped(key: str, epoch: int) -> bool:
    return zlib.crc32(f"{key} in {epoch}".encode()) % 10 == 0


class Number:
    """The sample's number; drops a tenth, other ones in each epoch."""

    def __init__(self, drops: bool) -> None:
        self.drops = drops

    def __call__(self, sample: dict[str, Any]) -> int | None:
        if self.drops and is_dropped(sample["__key__"], int(epoch_now)):
            return None
        return int(sample["txt"])


def score(numbers: torch.Tensor) -> torch.Tensor:
    return (numbers * 37 % 101).float()


def train(shards: str, url: str, case: str, workers: int, folder: Path, lanes: int | None) -> None:
    global_batch, policy, settings, drops = CASES[case]
    world, rank = dist.get_world_size(), dist.get_rank()
    dataset = InfoBatchStreamDataset(
        shards,
        url=url,
        run=f"{case}-{world}-{workers}-{lanes}",
        epochs=EPOCHS,
        policy=make_policy(policy, anneal=False, **settings),
        seed=7,
        order=OrderChoice(lanes=lanes),
    ).map(Number(drops))
    found: dict[str, Any] = {}
    context = "fork" if workers else None  # the workers see epoch_now
    with InfoBatchLoader(
        dataset, max(1, global_batch // world), num_workers=workers, multiprocessing_context=context
    ) as loader:
        for epoch in loader.epochs():
            epoch_now.fill_(epoch)
            batches = []
            for numbers in loader:
                loader.update(score(numbers))
                real = loader.weights() > 0
                assert len(numbers) == loader.batch_size
                batches.append(numbers[real].tolist())
            assert len(batches) == len(loader)
            found[f"sizes-{epoch}"] = [len(batch) for batch in batches]
            found[f"numbers-{epoch}"] = [number for batch in batches for number in batch]
            found[f"plan-{epoch}"] = loader.plan.kept_between(0, loader.plan.num_samples)
            found[f"positions-{epoch}"] = loader.state_dict()["positions"]
    assert loader.state_dict()["lanes"] == (lanes or 1)
    np.savez(folder / f"{case}-{world}-{workers}-{rank}.npz", **found)


def train_all(_: Connection | None, shards: str, url: str, folder: str, lanes: int | None, cases: Iterable[str]) -> str:
    """Every case with 0 to 3 workers; torch.distributed is initialised."""
    for case in cases:
        for workers in range(4):
            train(shards, url, case, workers, Path(folder), lanes)
    return "trained"


def main() -> None:
    shards, url, folder, lanes, *cases = sys.argv[1:]
    dist.init_process_group("gloo")
    train_all(None, shards, url, folder, int(lanes), cases)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
