"""The demo's network: two convolutions and a linear layer, about 32,000 weights.

In float64, and without BatchNorm: several ranks then compute what one does but for last bits too small to grow, in
thirty epochs, into another plan.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["make_model"]


def make_model(seed: int) -> nn.Sequential:
    """A network from images (B, 1, 8, 8) to logits (B, 10), float64, its weights drawn from `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            *_block(1, 24),
            *_block(24, 48),
            nn.MaxPool2d(2),
            *_block(48, 48),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(48, 10),
        ).double()


def _block(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.GroupNorm(8, channels_out),
        nn.ReLU(),
    )
