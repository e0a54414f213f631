"""The shared parts of the four examples: scikit-learn's digits as shards, loaders, a small network, the accuracy.

infobatch demo --keep DIR       writes the shards; without --data DIR the examples write their own
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from infobatch_client.demo.shards import make_shards
from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset


def parse_arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, help="a folder with train-*.tar and test-*.tar (default: new shards)")
    parser.add_argument("--url", help="HOST:PORT of a score server (default: an embedded one, in ./.infobatch)")
    # Not --run: torchrun would parse it as its own option.
    parser.add_argument("--run-name", help="the run on the server (default: a new one)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32, help="rows per process and micro-batch")
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers")
    parser.add_argument("--checkpoint", type=Path, help="save here, and resume from here if it exists")
    return parser.parse_args()


@contextmanager
def shards(args: argparse.Namespace) -> Iterator[Path]:
    """The folder with the shards. The shards are always the same, so each process may write its own."""
    torch.set_num_threads(1)  # layers this small gain nothing from more threads
    if args.data is not None:
        yield args.data
        return
    with tempfile.TemporaryDirectory(prefix="digits-", ignore_cleanup_errors=True) as folder:
        make_shards(Path(folder))
        yield Path(folder)


def pixels(image: Any) -> Tensor:
    """A grey image as a float tensor (1, 8, 8) in [−1, 1]."""
    return torch.from_numpy(np.asarray(image.convert("L"), np.float32) / 127.5 - 1).unsqueeze(0)


def train_loader(
    args: argparse.Namespace, folder: Path, collate_fn: Callable[[list[Any]], Any] | None = None
) -> InfoBatchLoader:
    """A loader of (images, labels); each process reads its own part."""
    dataset = InfoBatchStreamDataset(str(folder / "train-*.tar"), url=args.url, run=args.run_name, epochs=args.epochs)
    dataset = dataset.decode("pil").to_tuple("png", "cls").map_tuple(pixels, int)
    return InfoBatchLoader(dataset, batch_size=args.batch_size, num_workers=args.workers, collate_fn=collate_fn)


def test_loader(folder: Path) -> InfoBatchLoader:
    """A loader that reads every test sample once; rows that fill the last batch have weight 0."""
    dataset = InfoBatchStreamDataset(str(folder / "test-*.tar"), policy=None, shuffle=False)
    dataset = dataset.decode("pil").to_tuple("png", "cls").map_tuple(pixels, int)
    return InfoBatchLoader(dataset, batch_size=50)


def make_network() -> nn.Sequential:
    """A network from images (B, 1, 8, 8) to logits (B, 10)."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10)
    )


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], folder: Path) -> float:
    """The model's accuracy on the test samples, in [0, 1]."""
    counts = torch.zeros(2)  # correct predictions, samples
    with test_loader(folder) as loader:
        for images, labels in loader:
            weights = loader.weights()
            counts += torch.stack([weights[model(images).argmax(1) == labels].sum(), weights.sum()])
    if dist.is_initialized():
        dist.all_reduce(counts)  # each process has read only its part
    return float(counts[0] / counts[1])


def report(framework: str, steps: int, score: float) -> None:
    """Prints the result in one line, on the first process, and destroys the process group."""
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(f"{framework}: accuracy={score:.4f} steps={steps}", flush=True)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
