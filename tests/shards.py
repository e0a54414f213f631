"""Small shards for tests."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from webdataset.tariterators import group_by_keys, tar_file_expander

__all__ = ["image_files", "webdataset_samples", "write_tar"]


def write_tar(
    path: str | os.PathLike[str],
    files: Iterable[tuple[str, bytes]],
    *,
    format: int = tarfile.USTAR_FORMAT,
) -> Path:
    """Writes a tar file of (name, data) in the order given."""
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return Path(path)


def image_files(first: int, count: int, size_bytes: int = 300) -> list[tuple[str, bytes]]:
    """Files of `count` samples with a `jpg` of about `size_bytes` and a one-byte `cls` each."""
    files: list[tuple[str, bytes]] = []
    for number in range(first, first + count):
        files.append((f"{number:06d}.jpg", bytes([number % 256]) * (size_bytes + number % 7)))
        files.append((f"{number:06d}.cls", str(number % 10).encode()))
    return files


def webdataset_samples(*urls: object) -> list[dict[str, Any]]:
    """What webdataset's reader makes of shards.

    Its own code for all but opening files, which `wds.WebDataset` never closes: warnings are errors here.
    """
    samples: list[dict[str, Any]] = []
    for url in map(str, urls):
        path = urlparse(url).path
        with open(path, "rb") as stream:
            source = {"url": url, "stream": stream, "local_path": path}
            samples.extend(group_by_keys(tar_file_expander([source])))
    return samples
