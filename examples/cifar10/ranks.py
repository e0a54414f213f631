"""The differences of a training under torchrun: the process group, DDP, and sums over all ranks."""

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
    """This process's rank in the training; without torchrun the only one."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank prints and saves."""
        return self.rank == 0

    def train_together(self, model: nn.Module) -> nn.Module:
        """Wraps `model` in DDP, which averages the gradients over the ranks."""
        return model if self.world_size == 1 else DistributedDataParallel(model)

    def same_buffers(self, model: nn.Module) -> None:
        """Copies rank 0's BatchNorm statistics to all ranks, which differ after training."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def total(self, *counts: int) -> list[int]:
        """The sum of each count over the ranks; all ranks must call this."""
        sums: Tensor = torch.tensor(counts, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(sums)
        return [int(count) for count in sums.tolist()]


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Joins the other ranks if torchrun has started this process: over nccl on CUDA, else over gloo.

    Args:
        device: "cpu" or "cuda"; under torchrun, each rank uses the CUDA device of its LOCAL_RANK.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Ranks(torch.device(device))
        return
    if torch.device(device).type == "cuda":
        rank_device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(rank_device)
        dist.init_process_group("nccl", device_id=rank_device)
    else:
        rank_device = torch.device(device)
        dist.init_process_group("gloo")
    yield Ranks(rank_device, dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()  # not after an exception: the other ranks may never call it
