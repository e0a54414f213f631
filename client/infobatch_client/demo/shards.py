"""Writes webdataset shards of scikit-learn's digits: 1,797 scans of 8 × 8 pixels, for training and test."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

__all__ = ["DigitShards", "make_shards"]

NUM_TRAIN = 1347
SAMPLES_PER_SHARD = 225
SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class DigitShards:
    """Brace patterns of the training and the test shards, and their numbers of samples."""

    train: str
    test: str
    num_train: int
    num_test: int


def make_shards(folder: Path) -> DigitShards:
    """Writes `train-*.tar` and `test-*.tar` into `folder`; the same bytes every time.

    A sample is `NNNN.png` (8 × 8, grey) and `NNNN.cls`. The samples are split by a fixed permutation, so that both
    splits contain digits of all writers.
    """
    digits = load_digits()
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(digits.target))
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    patterns = {}
    for split, samples in (("train", shuffled[:NUM_TRAIN]), ("test", shuffled[NUM_TRAIN:])):
        pieces = [samples[at : at + SAMPLES_PER_SHARD] for at in range(0, len(samples), SAMPLES_PER_SHARD)]
        for number, piece in enumerate(pieces):
            _write_shard(folder / f"{split}-{number:04d}.tar", piece, images, digits.target)
        patterns[split] = str(folder / f"{split}-{{0000..{len(pieces) - 1:04d}}}.tar")
    return DigitShards(
        train=patterns["train"],
        test=patterns["test"],
        num_train=NUM_TRAIN,
        num_test=len(shuffled) - NUM_TRAIN,
    )


def _write_shard(path: Path, samples: np.ndarray, images: np.ndarray, labels: np.ndarray) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for digit in samples.tolist():
            png = io.BytesIO()
            Image.fromarray(images[digit]).save(png, format="PNG")
            _add(shard, f"{digit:04d}.png", png.getvalue())
            _add(shard, f"{digit:04d}.cls", str(labels[digit]).encode())


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))
