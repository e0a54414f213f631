"""The trainings of the demo: the README's three lines in a real loop, with counts of samples and test errors."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from infobatch_client.dataset import InfoBatchStreamDataset
from infobatch_client.demo.model import make_model
from infobatch_client.demo.shards import DigitShards
from infobatch_client.loader import InfoBatchLoader
from infobatch_client.progress_lr import ProgressLR, one_cycle
from infobatch_client.run.options import Connection
from infobatch_stream.pruning.policies import find_policy

__all__ = ["BATCH_SIZE", "Outcome", "Settings", "train", "train_both"]

BATCH_SIZE = 64
"""Rows of a global batch, of all ranks together."""
PEAK_LR = 0.05


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that both trainings share."""

    epochs: int
    prune_ratio: float
    delta: float
    seed: int
    workers: int
    state_dir: Path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one training."""

    test_errors: int
    num_test: int
    samples_by_rank: list[int]
    """Samples trained in all epochs by rank 0, 1, …"""
    pruned_shares: list[float]
    """Share of pruned samples in each epoch, in [0, 1]."""
    wall_s: float
    """Seconds from the first epoch's plan to the last step on rank 0, without the server's start and the test."""

    @property
    def samples_trained(self) -> int:
        """Samples trained in all epochs, by all ranks."""
        return sum(self.samples_by_rank)


def train_both(shards: DigitShards, settings: Settings) -> tuple[Outcome, Outcome]:
    """Runs the full training and then the pruned one; called by every rank."""
    torch.set_num_threads(1)  # a second thread gains little with layers this small, and costs 20-fold on busy cores
    return train("full", shards, settings), train("infobatch", shards, settings)


def train(policy: Literal["full", "infobatch"], shards: DigitShards, settings: Settings) -> Outcome:
    """Trains under `policy` ("full" or "infobatch"), then counts the errors on the test shards.

    If torch.distributed is initialised, all ranks train together.
    """
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    model: nn.Module = make_model(settings.seed)
    if world_size > 1:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=PEAK_LR, momentum=0.9, nesterov=True, weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss(reduction="none")
    dataset = (
        InfoBatchStreamDataset(
            shards.train,
            run=f"demo-{policy}",
            policy=policy,
            epochs=settings.epochs,
            prune_ratio=None if find_policy(policy).never_prunes else settings.prune_ratio,
            delta=settings.delta,
            seed=settings.seed,
            connection=Connection(state_dir=settings.state_dir),
        )
        .decode("pil")
        .to_tuple("png", "cls")
        .map_tuple(to_tensor, int)
    )
    with InfoBatchLoader(dataset, batch_size=BATCH_SIZE // world_size, num_workers=settings.workers) as loader:
        schedule = ProgressLR(optimizer, one_cycle(), loader)
        num_trained: list[int] = []  # by epoch
        start_s = time.perf_counter()
        # disable=None: a bar on a terminal only.
        no_bar = True if world_size > 1 and dist.get_rank() > 0 else None
        with tqdm(total=settings.epochs, desc=policy, unit="epoch", disable=no_bar) as bar:
            for _ in loader.epochs():
                num_trained.append(0)
                for images, labels in loader:
                    losses = criterion(model(images), labels)
                    loss = loader.update(losses)
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    schedule.step()
                    num_trained[-1] += int((loader.weights() > 0).sum())
                bar.update()
                bar.set_postfix_str(f"trained {num_trained[-1] * world_size:,} of {shards.num_train:,}")
        wall_s = time.perf_counter() - start_s
    by_rank = of_all_ranks(num_trained)
    return Outcome(
        test_errors=sum(of_all_ranks([count_errors(model, shards.test)]).flatten().tolist()),
        num_test=shards.num_test,
        samples_by_rank=by_rank.sum(dim=1).tolist(),
        pruned_shares=[1 - count / shards.num_train for count in by_rank.sum(dim=0).tolist()],
        wall_s=wall_s,
    )


def count_errors(model: nn.Module, shards: str) -> int:
    """The model's errors on this rank's part of `shards`; rows of weight 0 don't count."""
    dataset = (
        InfoBatchStreamDataset(shards, policy=None, shuffle=False)
        .decode("pil")
        .to_tuple("png", "cls")
        .map_tuple(to_tensor, int)
    )
    model.eval()
    errors = 0
    with InfoBatchLoader(dataset, batch_size=256) as loader, torch.inference_mode():
        for images, labels in loader:
            wrong = model(images).argmax(dim=1) != labels
            errors += int((wrong & (loader.weights() > 0)).sum())
    return errors


def of_all_ranks(counts: list[int]) -> torch.Tensor:
    """The counts of every rank, int64 (ranks, counts)."""
    rank_counts = torch.tensor(counts)
    if not dist.is_initialized():
        return rank_counts.unsqueeze(0)
    parts = [torch.empty_like(rank_counts) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rank_counts)
    return torch.stack(parts)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """A grey image as a float64 tensor (1, H, W) in [−1, 1]."""
    pixels = np.asarray(image.convert("L"), dtype=np.float64)
    return torch.from_numpy(pixels / 127.5 - 1.0).unsqueeze(0)
