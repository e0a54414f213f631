"""The tie: a pipeline's outputs, each with the sample from which it was made.

One persistent chain of webdataset's own stages receives one sample at a time, so that an output belongs to the sample
pulled last. A tap watches each stage that isn't known to keep this rule, and raises before a wrong tie can leave.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from webdataset.pipeline import DataPipeline

from infobatch_client.tie.stages import keeps_tie, may_drop, stage_name
from infobatch_stream.errors import PipelineError

__all__ = ["TiedChain"]

Tie = TypeVar("Tie")

_REMEMBERED = 8  # a stage without keys that holds back up to so many samples is still detected


class TiedChain(Generic[Tie]):
    """Runs samples through stages and yields each output with its sample's tie.

    For one pass, in one thread. `num_pulled` counts samples; `tie` and `key` are those of the one pulled last.

    Args:
        stages: webdataset pipeline stages.
        samples: (tie, sample) pairs.

    Raises:
        PipelineError: while iterating: a stage returns two outputs for one sample, holds samples back, or stops early.
    """

    def __init__(self, stages: Iterable[Any], samples: Iterable[tuple[Tie, dict[str, Any]]]) -> None:
        self._stages = list(stages)
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
                tap = _Tap(stage)
                chain = tap.watch_output(iter(invoke(stage, tap.watch_input(chain))))
        for payload in chain:
            if not self._fresh:
                raise PipelineError(_two_for_one(" → ".join(map(stage_name, self._stages))))
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


class _Tap:
    """Watches a stage that isn't known to return at most one output for each input."""

    def __init__(self, stage: object) -> None:
        self._name = stage_name(stage)
        self._may_drop = may_drop(stage)
        self._pulls = 0
        self._key: object = None
        self._item: Any = None
        self._earlier: deque[Any] = deque(maxlen=_REMEMBERED)
        self._consumer: int | None = None
        self._other_thread = False

    def watch_input(self, source: Iterator[Any]) -> Iterator[Any]:
        for item in source:
            if self._consumer != threading.get_ident():
                self._other_thread = True
            self._pulls += 1
            self._earlier.append(self._item)
            self._item, self._key = item, _key(item)
            yield item

    def watch_output(self, outputs: Iterator[Any]) -> Iterator[Any]:
        while True:
            self._pulls, self._consumer = 0, threading.get_ident()
            try:
                item = next(outputs)
            except StopIteration:
                return
            finally:
                self._consumer = None
            self._check(item)
            yield item

    def _check(self, item: Any) -> None:
        if self._other_thread:
            raise PipelineError(
                f"stage {self._name} pulls samples ahead or in another thread, so that an output can't be tied to its "
                "sample; let DataLoader workers (num_workers=…) work ahead instead"
            )
        if self._pulls == 0:
            raise PipelineError(_two_for_one(self._name))
        key = _key(item)
        if key is None and _parts(item) & set().union(*map(_parts, self._earlier)) - _parts(self._item):
            raise PipelineError(
                f"stage {self._name} gave parts of a sample that it had pulled earlier: it holds samples back, and "
                "scores would go to the wrong sample; make it one output for one input"
            )
        if key is not None and self._key is not None:
            if key != self._key:
                raise PipelineError(
                    f"stage {self._name} gave sample {key!r} after it pulled {self._key!r}: it holds samples back or "
                    "changes __key__, and scores would go to the wrong sample; make it one output for one input"
                )
        elif self._pulls > 1 and not self._may_drop:
            raise PipelineError(
                f"stage {self._name} pulled {self._pulls} samples for one output without a __key__; if it drops "
                "samples, say so by `stage.may_drop = True`; if it holds them back, make it one output for one input"
            )


def _key(item: Any) -> object:
    return item.get("__key__") if isinstance(item, dict) else None


def _parts(item: Any) -> set[int]:
    """Identities of a payload's parts; small values are left out, for samples share them."""
    parts = item.values() if isinstance(item, dict) else item if isinstance(item, (tuple, list)) else [item]
    return {id(part) for part in parts if not isinstance(part, (type(None), bool, int, float, str, bytes))}


def _two_for_one(name: str) -> str:
    return (
        f"{name} gave two outputs for one sample: a sample has one score, so a stage gives one output or none; "
        "put the crops or views of a sample into one tuple"
    )
