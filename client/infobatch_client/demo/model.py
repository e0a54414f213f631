"""The demo's network: two convolutions and a linear layer, about 32,000 weights.

It uses float64 and no BatchNorm, so that several ranks compute the same as one, except for rounding differences that
are too small to change a plan within thirty epochs.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["make_model"]


def make_model(seed: int) -> nn.Sequential:
    """A float64 network from images (B, 1, 8, 8) to logits (B, 10); its weights depend on `seed` alone."""
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
