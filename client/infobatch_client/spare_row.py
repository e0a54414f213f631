"""A row to fill a batch with, where a worker has none of its own: the first that comes out of a throw-away chain."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from webdataset.pipeline import DataPipeline

from infobatch_client.stages import stage_name
from infobatch_stream.errors import PipelineError

__all__ = ["MAX_MISSES", "spare_row"]

MAX_MISSES = 1000


def spare_row(stages: Sequence[Any], samples: Iterator[dict[str, Any]]) -> Any:
    """The first output of `stages` over `samples`.

    Raises:
        PipelineError: 1,000 samples gave none; names the stage that drops them.
    """
    passed: Counter[int] = Counter()

    def counted(number: int, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            passed[number] += 1
            yield item

    invoke = DataPipeline().invoke
    chain = counted(0, itertools.islice(samples, MAX_MISSES))
    for number, stage in enumerate(stages, start=1):
        chain = counted(number, iter(invoke(stage, chain)))
    for payload in chain:
        return payload
    guilty = next((stage for number, stage in enumerate(stages, start=1) if not passed[number]), None)
    raise PipelineError(
        f"a batch needs a row to be filled up with, and the first {passed[0]} samples of the epoch gave none: "
        f"{stage_name(guilty) if guilty is not None else 'the reader'} dropped them all"
    )
