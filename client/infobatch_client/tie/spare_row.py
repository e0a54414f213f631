"""A row to fill a batch of a worker that has none of its own yet: the first output of a temporary chain."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from webdataset.pipeline import DataPipeline

from infobatch_client.tie.stages import stage_name
from infobatch_stream.errors import PipelineError

__all__ = ["MAX_MISSES", "spare_row"]

MAX_MISSES = 1000


def spare_row(stages: Sequence[Any], samples: Iterator[dict[str, Any]], *, skip_errors: bool = False) -> Any:
    """The first output of `stages` over `samples`.

    Args:
        stages: webdataset stages.
        samples: their input; at most 1,000 are read.
        skip_errors: a sample on which a stage raises is left out.

    Raises:
        PipelineError: no output for 1,000 samples; names the stage that drops them.
    """
    passed: Counter[int] = Counter()
    first = itertools.islice(samples, MAX_MISSES)
    while True:
        before = passed[0]
        try:
            for payload in _chain(stages, first, passed):
                return payload
            break
        except Exception:
            if not skip_errors or passed[0] == before:
                raise
    guilty = next((stage for number, stage in enumerate(stages, start=1) if not passed[number]), None)
    raise PipelineError(
        f"a batch needs a row to fill it, and the first {passed[0]} samples of the epoch gave none: "
        f"{stage_name(guilty) if guilty is not None else 'the reader'} dropped them all"
    )


def _chain(stages: Sequence[Any], samples: Iterator[Any], passed: Counter[int]) -> Iterator[Any]:
    """The stages' outputs; `passed` counts the samples (at 0) and the outputs of each stage (at 1, 2, …)."""

    def counted(number: int, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            passed[number] += 1
            yield item

    invoke = DataPipeline().invoke
    chain = counted(0, samples)
    for number, stage in enumerate(stages, start=1):
        chain = counted(number, iter(invoke(stage, chain)))
    return chain
