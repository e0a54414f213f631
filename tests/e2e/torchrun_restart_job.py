"""A training that torchrun restarts: crashes once in mid-epoch, and goes on from its checkpoint."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from infobatch_stream import InfoBatch, InfoBatchLoader, InfoBatchStreamDataset


def number(sample: dict[str, bytes]) -> int:
    return int(sample["txt"])


def main() -> None:
    shards, url, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    attempt, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
    # A file of its own for each attempt: gloo over the agent's store now and then finds the dead attempt's addresses.
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{attempt}", rank=rank, world_size=2)
    dataset = InfoBatchStreamDataset(shards, url=url, run="restarted", epochs=3, policy=InfoBatch(anneal=False)).map(
        number
    )
    loader = InfoBatchLoader(dataset, 16)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        loader.load_state_dict(torch.load(checkpoint))
    seen: dict[int, list[int]] = {}
    generations = []
    for epoch in loader.epochs():
        generations.append(loader.plan.generation)
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
                if rank == 1:
                    os._exit(13)
                signal.pause()  # until torchrun ends this rank too
    (folder / f"seen-1-{rank}.json").write_text(json.dumps({**seen, "generations": generations}))
    loader.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
