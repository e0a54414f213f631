"""Random crops and flips of a whole batch, on the device of the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def normalize(images: Tensor) -> Tensor:
    """Converts uint8 (B, 3, H, W) to float32, with about zero mean and unit variance per channel."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(3, 1, 1)
    return (images.float() / 255.0 - mean) / std


def crop_and_flip(
    images: Tensor, generator: torch.Generator, padding: int = 4, part: tuple[int, int] = (0, 1)
) -> Tensor:
    """Shifts each image by up to `padding` pixels in each direction, fills with zeros, and flips it with probability ½.

    Args:
        images: (B, C, H, W), any dtype and device.
        generator: a CPU generator; the draws are the same for every device.
        padding: the largest shift, in pixels.
        part: (k, n) if `images` is part k of n equal parts of a batch; the draws are then those of the whole batch.

    Returns:
        A tensor with the shape, dtype and device of `images`.
    """
    batch, channels, height, width = images.shape
    whole_batch = (part[1] * batch, 1)
    rows_of_part = slice(part[0] * batch, (part[0] + 1) * batch)
    top = torch.randint(0, 2 * padding + 1, whole_batch, generator=generator)[rows_of_part]
    left = torch.randint(0, 2 * padding + 1, whole_batch, generator=generator)[rows_of_part]
    flip = torch.randint(0, 2, whole_batch, generator=generator)[rows_of_part].bool()
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    columns = torch.where(flip, columns.flip(1), columns)
    flat = (rows.unsqueeze(2) * (width + 2 * padding) + columns.unsqueeze(1)).view(batch, 1, height * width)
    padded = F.pad(images, (padding,) * 4).flatten(2)
    index = flat.to(images.device, non_blocking=True).expand(batch, channels, height * width)
    return padded.gather(2, index).view_as(images)


def generator_for(seed: int, step: int) -> torch.Generator:
    """The generator of one training step; it depends on (seed, step) alone, so a resumed run draws the same."""
    return torch.Generator().manual_seed((seed << 32) + step)
