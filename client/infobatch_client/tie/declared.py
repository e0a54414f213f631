"""A pipeline stage with a declaration: whether it may drop samples."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from webdataset.pipeline import DataPipeline
from webdataset.utils import PipelineStage

from infobatch_client.tie.refusals import refuse_if_tie_breaks

__all__ = ["DeclaredStage", "may_drop"]

Stage = Callable[[Iterator[Any]], Iterable[Any]]


class DeclaredStage(PipelineStage):  # type: ignore[misc]
    """The stage that `may_drop` returns. Picklable if the stage is."""

    def __init__(self, stage: Any, drops: bool) -> None:
        self.stage = stage
        self.may_drop = drops
        self.__module__ = getattr(stage, "__module__", __name__)

    def __call__(self, source: Iterator[Any]) -> Iterable[Any]:
        outputs: Iterable[Any] = DataPipeline().invoke(self.stage, source)
        return outputs

    run = __call__

    def __get__(self, instance: object, owner: type | None = None) -> DeclaredStage:
        """Bound to `instance`, as a function is: the declaration may stand on a method of a class."""
        bind = getattr(self.stage, "__get__", None)
        if instance is None or bind is None:
            return self
        return DeclaredStage(bind(instance, owner), self.may_drop)

    def __repr__(self) -> str:
        return f"may_drop({self.stage!r}, {self.may_drop})"

    def __reduce__(self) -> Any:
        """By name if it is a decorated function, which its module has under that name."""
        name = getattr(self.stage, "__qualname__", "")
        try:
            if operator.attrgetter(name)(sys.modules[self.__module__]) is self:
                return name
        except (AttributeError, KeyError):
            pass
        return DeclaredStage, (self.stage, self.may_drop)


def may_drop(stage: Stage | PipelineStage, drops: bool = True) -> DeclaredStage:
    """Declares that a pipeline stage drops samples, or that it drops none; as a function or as a decorator.

    A stage whose outputs have no `__key__`, and no part of their sample as it came, needs one of the two: when it has
    pulled two samples for one output, nobody could tell whether it has dropped the first or holds it back.

    Not for a stage that merges, packs or buffers samples: its output belongs to no single sample, and scores would go
    to wrong ones. Such stages raise where they are noticed, but one that computes its output from several samples and
    holds none of them is noticed after a dozen outputs or more. Pack in `collate_fn`, or when the shards are written.

    Args:
        stage: a function of an iterator of samples that returns an iterator, a partial, bound method, callable object,
            or a webdataset stage.
        drops: True: it gives one output or none for a sample. False: it gives exactly one; a sample without an output
            is an error.

    Returns:
        A stage for `.compose`; picklable if `stage` is.

    Raises:
        PipelineError: no stage, or one that is refused in every pipeline.

    Example:
        >>> dataset = dataset.to_tuple("wav", "txt").compose(may_drop(self.build))      # doctest: +SKIP
    """
    refuse_if_tie_breaks(stage)
    return DeclaredStage(stage, bool(drops))
