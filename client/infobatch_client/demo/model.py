"""The demo's network: two convolutions and a linear layer, about 57,000 weights."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["make_model"]


def make_model(seed: int) -> nn.Sequential:
    """A network from images (B, 1, 8, 8) to logits (B, 10), its weights drawn from `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            *_block(1, 32),
            *_block(32, 64),
            nn.MaxPool2d(2),
            *_block(64, 64),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )


def _block(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )
