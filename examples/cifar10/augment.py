"""Random crops and flips of a batch at once, on whatever device it is on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def normalize(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) to float32 of about zero mean and unit variance a channel."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(3, 1, 1)
    return (images.float() / 255.0 - mean) / std


def crop_and_flip(
    images: Tensor, generator: torch.Generator, padding: int = 4, part: tuple[int, int] = (0, 1)
) -> Tensor:
    """Each image shifted by up to `padding` pixels each way, zeros coming in, and mirrored half of the time.

    Args:
        images: (B, C, H, W), any dtype and device.
        generator: a CPU generator; the draws are the same for every device.
        padding: pixels.
        part: (k, n) if `images` are the k-th of n equal parts of a batch: the draws are those it gets in the whole.

    Returns:
        A tensor like `images`.
    """
    batch, channels, height, width = images.shape
    of_all = (part[1] * batch, 1)
    own = slice(part[0] * batch, (part[0] + 1) * batch)
    top = torch.randint(0, 2 * padding + 1, of_all, generator=generator)[own]
    left = torch.randint(0, 2 * padding + 1, of_all, generator=generator)[own]
    flip = torch.randint(0, 2, of_all, generator=generator)[own].bool()
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    columns = torch.where(flip, columns.flip(1), columns)
    flat = (rows.unsqueeze(2) * (width + 2 * padding) + columns.unsqueeze(1)).view(batch, 1, height * width)
    padded = F.pad(images, (padding,) * 4).flatten(2)
    index = flat.to(images.device, non_blocking=True).expand(batch, channels, height * width)
    return padded.gather(2, index).view_as(images)


def generator_for(seed: int, step: int) -> torch.Generator:
    """The draws of one training step: of (seed, step) alone, so that a resumed run draws what it would have."""
    return torch.Generator().manual_seed((seed << 32) + step)
