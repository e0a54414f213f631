"""Converts the original `cifar-10-python.tar.gz` into webdataset shards of PNG images and class numbers.

python make_shards.py cifar-10-python.tar.gz DIR
"""

from __future__ import annotations

import argparse
import io
import itertools
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

FILES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}


ALLOWED = {
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads only plain containers and numpy arrays, so that a pickle can't run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed: CIFAR-10 has only arrays and containers")
        return super().find_class(module, name)


def samples(archive: Path, split: str) -> Iterator[tuple[np.ndarray, int]]:
    """The images (32, 32, 3) uint8 and labels of one split, in the archive's order."""
    with tarfile.open(archive) as files:
        for name in FILES[split]:
            member = files.extractfile(f"cifar-10-batches-py/{name}")
            assert member is not None
            batch = ArrayUnpickler(member, encoding="bytes").load()
            images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            yield from zip(images, batch[b"labels"], strict=True)


def write_shards(archive: Path, folder: Path, split: str, samples_per_shard: int) -> int:
    """Writes `folder`/`split`-NNNN.tar; returns the number of samples."""
    numbered = enumerate(tqdm(samples(archive, split), desc=split, unit="image", disable=None))
    count = number = 0
    while piece := list(itertools.islice(numbered, samples_per_shard)):
        with tarfile.open(folder / f"{split}-{number:04d}.tar", "w") as shard:
            for index, (image, label) in piece:
                png = io.BytesIO()
                Image.fromarray(image).save(png, format="PNG")
                add(shard, f"{index:05d}.png", png.getvalue())
                add(shard, f"{index:05d}.cls", str(label).encode())
        count += len(piece)
        number += 1
    return count


def add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write webdataset shards of CIFAR-10.")
    parser.add_argument("archive", type=Path, help="the original cifar-10-python.tar.gz")
    parser.add_argument("folder", type=Path, help="the folder for train-*.tar and test-*.tar")
    parser.add_argument("--samples-per-shard", type=int, default=1000)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for split in FILES:
        count = write_shards(args.archive, args.folder, split, args.samples_per_shard)
        print(f"{split}: {count:,} samples")


if __name__ == "__main__":
    main()
