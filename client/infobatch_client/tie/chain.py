"""The tie: a pipeline's outputs, each with the sample from which it was made.

One persistent chain of webdataset's own stages receives one sample at a time, so that an output belongs to the sample
pulled last. A tap watches each stage that isn't known to keep this rule, and raises before a wrong tie can leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from webdataset.pipeline import DataPipeline

from infobatch_client.tie.stages import keeps_tie, stage_name
from infobatch_client.tie.tap import Tap, two_for_one
from infobatch_stream.errors import PipelineError

__all__ = ["TiedChain"]

Tie = TypeVar("Tie")


class TiedChain(Generic[Tie]):
    """Runs samples through stages and yields each output with its sample's tie.

    For one pass, in one thread. `num_pulled` counts samples; `tie` and `key` are those of the one pulled last.

    Args:
        stages: webdataset pipeline stages.
        samples: (tie, sample) pairs.
        shuffled: off for index order.

    Raises:
        PipelineError: while iterating: a stage returns two outputs for one sample, holds samples back, or stops early.
    """

    def __init__(
        self, stages: Iterable[Any], samples: Iterable[tuple[Tie, dict[str, Any]]], *, shuffled: bool = True
    ) -> None:
        self._stages = list(stages)
        self._shuffled = shuffled
        self._samples = samples
        self.tie: Tie
        self.key: object = None
        self._exhausted = False
        self._fresh = False
        self.num_pulled = 0

    def __iter__(self) -> Iterator[tuple[Tie, Any]]:
        chain: Iterator[Any] = self._feed()
        invoke = DataPipeline().invoke
        for stage in self._stages:
            if keeps_tie(stage):
                chain = iter(invoke(stage, chain))
            else:
                chain = Tap(stage, shuffled=self._shuffled).outputs(invoke, chain)
        for payload in chain:
            if not self._fresh:
                raise PipelineError(two_for_one(" → ".join(map(stage_name, self._stages))))
            self._fresh = False
            yield self.tie, payload
        if not self._exhausted:
            raise PipelineError(
                f"the pipeline {' → '.join(map(stage_name, self._stages))} stopped before its samples did; a handler "
                "that returns False (such as webdataset's ignore_and_stop) can't be used, on_error='skip' can"
            )

    def _feed(self) -> Iterator[dict[str, Any]]:
        for tie, sample in self._samples:
            self.tie, self.key = tie, sample.get("__key__")
            self._fresh = True
            self.num_pulled += 1
            yield sample
        self._exhausted = True
