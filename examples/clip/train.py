"""CLIP with pruning: one loss per image-text pair, among the real pairs of its batch.

The shards have images (`jpg`) and captions (`txt`); a pair without a caption is dropped.

    python examples/clip/train.py --shards 'data/pairs-{0000..0049}.tar' --epochs 10
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, normalize

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset

SIZE, LENGTH = 16, 32  # pixels, bytes of a caption


class Clip(torch.nn.Module):
    """An encoder each for images and captions, and a temperature."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.image = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE * SIZE, width))
        self.text = torch.nn.Sequential(
            torch.nn.Embedding(256, 8), torch.nn.Flatten(), torch.nn.Linear(8 * LENGTH, width)
        )
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Similarities (B, B): of each image with each text."""
        similar: torch.Tensor = normalize(self.image(images), dim=1) @ normalize(self.text(texts), dim=1).T
        return self.log_scale.exp() * similar


def clip_losses(logits: torch.Tensor) -> torch.Tensor:
    """CLIP's loss by pair (B,): its image among the texts, and its text among the images, of logits (B, B)."""
    pairs = torch.arange(len(logits), device=logits.device)
    by_image = cross_entropy(logits, pairs, reduction="none")
    return (by_image + cross_entropy(logits.T, pairs, reduction="none")) / 2


def has_caption(sample: dict[str, Any]) -> bool:
    """Whether a sample is a pair."""
    return bool(sample.get("txt"))


def to_image(image: Any) -> torch.Tensor:
    """A PIL image as float32 (3, SIZE, SIZE)."""
    pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE)), np.float32)
    return torch.from_numpy(pixels.transpose(2, 0, 1) / 255)


def to_tokens(text: str) -> torch.Tensor:
    """A caption's bytes, int64 (LENGTH,)."""
    return torch.tensor(list(text.encode()[:LENGTH].ljust(LENGTH)))


def make_loader(shards: str, batch_size: int, num_workers: int = 0, **run: Any) -> InfoBatchLoader:
    """A loader of (images, texts); `run` has the dataset's arguments."""
    dataset = InfoBatchStreamDataset(shards, **run).select(has_caption)
    dataset = dataset.decode("pil").to_tuple("jpg", "txt").map_tuple(to_image, to_tokens)
    return InfoBatchLoader(dataset, batch_size, num_workers, compact=True)


def train(loader: InfoBatchLoader, model: Clip, optimizer: torch.optim.Optimizer) -> None:
    """All epochs of the loader."""
    for epoch in loader.epochs():
        total = 0.0
        for images, texts in loader:
            loss = loader.update(clip_losses(model(images, texts)))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch}: loss {total / max(1, len(loader)):.3f}, {loader.plan.pruned} pairs pruned")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shards", default="data/pairs-{0000..0049}.tar")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--url", help="HOST:PORT of a score server; by default one is started")
    parser.add_argument("--run-name", help="the run's name on the server")
    asked = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = Clip()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with make_loader(
        asked.shards, asked.batch_size, asked.workers, url=asked.url, run=asked.run_name, epochs=asked.epochs
    ) as loader:
        train(loader, model, optimizer)


if __name__ == "__main__":
    main()
