"""One rank of `test_plain_ranks`: trains and validates by a plain DataLoader, and writes down what it was given."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from infobatch_stream import InfoBatchStreamDataset

GLOBAL_BATCH = 64
EPOCHS = 3


def to_number(sample: dict[str, Any]) -> int:
    return int(sample["txt"])


def score(numbers: torch.Tensor) -> torch.Tensor:
    return (numbers * 37 % 101).float()


def make_dataset(shards: str, url: str, run: str, world: int) -> Any:
    return InfoBatchStreamDataset(
        shards, url=url, run=run, epochs=EPOCHS, delta="0.9", seed=7, batch_size=GLOBAL_BATCH // world
    ).map(to_number)


def main() -> None:
    shards, url, folder, stop_at = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    batch_size = GLOBAL_BATCH // world
    one_worker = "spawn" if world > 1 else "fork"  # a process that spawns imports torch once more
    for workers, context in ((0, None), (2, "fork"), (1, one_worker)):
        found: dict[str, Any] = {}
        with make_dataset(shards, url, f"plain-ranks-{world}-{workers}", world) as dataset:
            loader = DataLoader(
                dataset,
                batch_size=batch_size,
                num_workers=workers,
                multiprocessing_context=context,
                persistent_workers=context == "spawn",
            )
            for epoch in range(2):
                dataset.set_epoch(epoch)
                found[str(epoch)] = []
                for number, (numbers, index, weight) in enumerate(loader):
                    if epoch == 1 and number == stop_at:
                        break
                    dataset.update(score(numbers), index, weight)
                    found[str(epoch)].append(index.tolist())
            found["state"] = dataset.state_dict()
        validation = InfoBatchStreamDataset(shards, policy=None, batch_size=batch_size).map(to_number)
        loader = DataLoader(validation, batch_size=batch_size, num_workers=workers)
        found["validation"] = [index.tolist() for _, index, _ in loader]
        assert len(found["validation"]) == len(loader)
        (folder / f"{workers}-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
