"""Several data sets mixed into one stream: refused by name, with the ways that keep each score on its sample."""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Any

from torch.utils.data import ChainDataset, ConcatDataset, Dataset
from webdataset import shardlists
from webdataset.mix import RandomMix, RoundRobin

from infobatch_stream.errors import PipelineError

__all__ = ["mixed_error", "mixer_around", "refuse_if_data_set"]

_MIXERS = (RandomMix, RoundRobin, ChainDataset, ConcatDataset)
_DEPTH = 3  # a comprehension is a frame of its own


def mixed_error(what: str) -> PipelineError:
    """The error for `what` mixes data sets."""
    return PipelineError(
        f"{what} would mix samples of several data sets in a batch, and a batch belongs to one run. Give the shards of "
        "all to one dataset, InfoBatchStreamDataset([…, …], groups={'web': 'web-*.tar', 'books': 'books-*.tar'}), with "
        "policy=InfoBatch(per_group=True) for a threshold for each; or make a dataset and a loader for each, and take "
        "a batch from every loader in a step"
    )


def refuse_if_data_set(stage: object) -> None:
    """Raises PipelineError for a stage that is a data set, or that mixes some; a list of shards is neither."""
    kind = stage if isinstance(stage, type) else type(stage)
    if issubclass(kind, Dataset) and kind.__module__ != shardlists.__name__:
        raise mixed_error(f"{kind.__name__}, as a stage of an InfoBatchStreamDataset,")


def mixer_around() -> str | None:
    """The name of the mixer that iterates over the caller's object, on whose `__iter__` this is called; or None."""
    frame: FrameType | None = inspect.currentframe()
    frame = frame.f_back if frame is not None else None  # the caller's __iter__
    for _ in range(_DEPTH):
        frame = frame.f_back if frame is not None else None
        if frame is None:
            return None
        owner: Any = frame.f_locals.get("self")
        if isinstance(owner, _MIXERS):
            return type(owner).__name__
    return None
