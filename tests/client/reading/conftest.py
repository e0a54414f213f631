"""Three shards, and readers of shards, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infobatch_client.reading.reader import ShardReader
from infobatch_client.shards.index_store import index_shards
from tests.shards import image_files, write_tar

Sample = dict[str, Any]


def reader_of(*paths: object, **options: Any) -> ShardReader:
    return ShardReader(index_shards([str(path) for path in paths], progress=False), **options)


def read(reader: ShardReader, indices: Any, chunk: int = 100, **options: Any) -> list[Sample]:
    every = np.asarray(indices, dtype=np.int64)
    parts = [every[at : at + chunk] for at in range(0, len(every), chunk)]
    return list(reader.samples([(part, np.ones(len(part), np.float32)) for part in parts], **options))


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return [write_tar(tmp_path / f"{n}.tar", image_files(50 * n, 50)) for n in range(3)]
