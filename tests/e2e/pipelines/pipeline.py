"""A pipeline of the public field: the members of its shards, its stages, and how to read numbers from its batches."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

__all__ = [
    "SIZES",
    "N",
    "Pipeline",
    "as_json",
    "as_tensor",
    "has_both",
    "image",
    "image_number",
    "log_and_continue",
    "opened",
]

SIZES = (7, 25, 1, 20, 10)
N = sum(SIZES)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One pipeline.

    Args:
        files: the (name, data) of sample i, in [0, N).
        stages: makes webdataset's stages, new ones each time.
        numbers: batch → numbers int (B,) of its samples, read from their data alone.
        collate_fn: list of payloads → batch; None: torch's default_collate.
        kept: so many of the samples pass its filters and decoders.
    """

    files: Callable[[int], list[tuple[str, bytes]]]
    stages: Callable[[], list[Any]]
    numbers: Callable[[Any], torch.Tensor]
    collate_fn: Callable[[list[Any]], Any] | None = None
    kept: int = N


def log_and_continue(error: Exception) -> bool:
    """A handler as scripts have it: the sample is left out."""
    return True


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def image(number: int, format: str = "JPEG", size: int = 8) -> bytes:
    """A grey image from whose brightness the number can be read, after JPEG too."""
    with io.BytesIO() as stream:
        Image.fromarray(np.full((size, size, 3), 4 * number + 2, np.uint8)).save(stream, format)
        return stream.getvalue()


def opened(data: bytes) -> Image.Image:
    """Decodes an image; raises for other data."""
    with io.BytesIO(data) as stream:
        return Image.open(stream).convert("RGB")


def as_tensor(picture: Image.Image) -> torch.Tensor:
    """float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32).transpose(2, 0, 1) / 255)


def image_number(images: torch.Tensor) -> torch.Tensor:
    """The numbers of images (B, 3, H, W)."""
    return ((images.flatten(1).mean(1) * 255 - 2) / 4).round().long()


def has_both(sample: dict[str, Any]) -> bool:
    """Whether a sample has a caption and an image."""
    return "txt" in sample and any(extension in sample for extension in ("png", "jpg", "jpeg", "webp"))
