"""The part of a dataset that a worker needs: the reader of samples, their pipeline, and the rule for errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from infobatch_client.reading.reader import ShardReader

__all__ = ["SampleSource"]


@dataclass(frozen=True, eq=False)
class SampleSource:
    """Picklable into workers; holds no thread, lock or channel.

    Args:
        reader: reads samples by index.
        stages: webdataset stages.
        on_error: "raise", or "skip": a sample that can't be read, or on which a stage raises, is left out and counted.
        max_errors: the most errors that are skipped by worker and pass.
        names_drops: batches name the samples that a stage dropped.
        subset: int64 (n,), ascending: the samples of a pass in index order; None: all.
    """

    reader: ShardReader
    stages: Sequence[Any]
    on_error: str = "raise"
    max_errors: int = 1000
    names_drops: bool = False
    subset: npt.NDArray[np.int64] | None = None

    @property
    def skips_errors(self) -> bool:
        """Whether a sample that fails is left out."""
        return self.on_error == "skip"

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """int64 (S+1,), the manifest's: the first sample index of each shard, and N."""
        return self.reader.manifest.offsets
