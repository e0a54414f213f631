"""A training that torchrun restarts: crashes once in mid-epoch, and goes on from its checkpoint."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset


def number(sample: dict[str, bytes]) -> int:
    return int(sample["txt"])


def main() -> None:
    shards, url, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    dist.init_process_group("gloo")
    attempt, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), dist.get_rank()
    dataset = InfoBatchStreamDataset(shards, url=url, run="restarted", epochs=3, anneal=False).map(number)
    loader = InfoBatchLoader(dataset, 16)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        loader.load_state_dict(torch.load(checkpoint))
    seen: dict[int, list[int]] = {}
    for epoch in loader.epochs():
        for step, numbers in enumerate(loader):
            loader.update((numbers % 17).float())
            seen.setdefault(epoch, []).extend(numbers[loader.weights() > 0].tolist())
            if attempt == 0 and (epoch, step) == (1, 4):
                dist.barrier()
                if rank == 0:
                    torch.save(loader.state_dict(), checkpoint)
                loader.flush()
                (folder / f"seen-0-{rank}.json").write_text(json.dumps(seen))
                dist.barrier()
                os._exit(13)
    (folder / f"seen-1-{rank}.json").write_text(
        json.dumps({**seen, "plan": loader.plan.plan_id, "generation": loader.plan.generation})
    )
    loader.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
