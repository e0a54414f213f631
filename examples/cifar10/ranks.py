"""What a training does differently under torchrun: the group of ranks, DDP, and sums over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; one of one without torchrun."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank prints and saves."""
        return self.rank == 0

    def train_together(self, model: nn.Module) -> nn.Module:
        """`model` as every rank should call it: its gradients become the mean over the ranks."""
        return model if self.world_size == 1 else DistributedDataParallel(model)

    def same_buffers(self, model: nn.Module) -> None:
        """Gives all ranks rank 0's BatchNorm statistics: each keeps its own while it trains."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def total(self, *counts: int) -> list[int]:
        """Each count's sum over the ranks, all of which call this."""
        sums: Tensor = torch.tensor(counts, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(sums)
        return [int(count) for count in sums.tolist()]


@contextmanager
def started_ranks(device: str) -> Iterator[Ranks]:
    """Joins the other ranks where torchrun has started this process: over nccl on CUDA, else over gloo.

    Args:
        device: "cpu", or "cuda", of which every rank takes that of its LOCAL_RANK.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Ranks(torch.device(device))
        return
    if torch.device(device).type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
        dist.init_process_group("nccl", device_id=chosen)
    else:
        chosen = torch.device(device)
        dist.init_process_group("gloo")
    yield Ranks(chosen, dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()  # not after an exception: the others may never come to it
