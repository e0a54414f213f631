"""Stages that would break the tie of sample and score, or choose samples again: refused by name, with a way out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import webdataset
from torch.utils.data import DataLoader, IterableDataset
from webdataset import cache, compat, extradatasets, filters, mix, pipeline, shardlists, tariterators, utils

from infobatch_client.tie.layers import calls_on_source, functions_in, layers
from infobatch_stream.errors import PipelineError

__all__ = ["REFUSED_CODES", "SLICED", "refuse", "refuse_if_tie_breaks"]

_USE_ORDER = "leave it out: the plan order shuffles, over all shards at once by default (see order=OrderChoice(…))"
_USE_LOADER = (
    "leave it out: InfoBatchLoader(dataset, batch_size=…) makes the batches. Its collate_fn= takes the place of "
    "collation_fn= and of stages that work on batches; in a plain DataLoader that is collate_fn=dataset.collate(fn)"
)
_USE_EPOCHS = "leave it out: the plan decides the epoch's samples, and loader.epochs() yields all epochs"
_USE_EACH_ONCE = "leave it out: an epoch has each of its samples once"
_USE_PLAN = (
    "leave it out: the plan says which rank and which worker reads what, and a second division would leave out all but "
    "one part of the samples"
)
_USE_READER = "leave it out: InfoBatchStreamDataset(shards) is list, reader and grouping of the shards' files in one"
_NO_CACHE = "leave it out: shards are read by position, and a cache of samples would hold the wrong ones"
_NO_SOURCE = (
    "a dataset or loader is where samples come from, and no stage; the shards go into "
    "InfoBatchStreamDataset(shards), those of several sources together"
)
SLICED = (
    "leave it out: the plan decides which samples an epoch has, and which rank and worker reads them; loader.epochs() "
    "yields all epochs"
)
_USE_LENGTH = "leave it out: len(loader) is the number of batches"

_BY_MODULE: dict[Any, dict[str, str]] = {
    shardlists: {
        "split_by_node": _USE_PLAN,
        "split_by_worker": _USE_PLAN,
        "single_node_only": _USE_PLAN,
        "resampled_": _USE_EACH_ONCE,
        "ResampledShards": _USE_EACH_ONCE,
        "SimpleShardList": _USE_READER,
        "DirectoryShardList": _USE_READER,
        "MultiShardSample": _USE_READER,
        "shardspec": _USE_READER,
    },
    tariterators: {
        "shardlist": _USE_READER,
        "url_opener": _USE_READER,
        "tar_file_iterator": _USE_READER,
        "tar_file_expander": _USE_READER,
        "group_by_keys": _USE_READER,
        "tarfile_samples": _USE_READER,
    },
    cache: {"StreamingOpen": _USE_READER, "FileCache": _NO_CACHE},
    filters: {
        "_shuffle": _USE_ORDER,
        "detshuffle": _USE_ORDER,
        "_batched": _USE_LOADER,
        "_unbatched": _USE_LOADER,
        "_unlisted": _USE_LOADER,
        "Cached": _NO_CACHE,
        "LMDBCached": _NO_CACHE,
    },
    extradatasets: {
        "repeatedly": _USE_EPOCHS,
        "with_epoch": _USE_EPOCHS,
        "with_length": _USE_LENGTH,
        "MockDataset": _NO_SOURCE,
    },
    mix: {
        "RandomMix": _NO_SOURCE,
        "RoundRobin": _NO_SOURCE,
        "random_samples": _NO_SOURCE,
        "round_robin_shortest": _NO_SOURCE,
        "round_robin_longest": _NO_SOURCE,
    },
    compat: {"WebDataset": _USE_READER, "WebLoader": _NO_SOURCE, "FluidWrapper": _NO_SOURCE},
    pipeline: {"DataPipeline": _NO_SOURCE},
    utils: {"repeatedly": _USE_EPOCHS, "repeatedly0": _USE_EPOCHS},
}
_SPOKEN = {  # where the name in the source isn't the one that a script has
    "_shuffle": ".shuffle()",
    "_batched": ".batched() or .listed()",
    "_unbatched": ".unbatched()",
    "_unlisted": ".unlisted()",
    "Cached": ".mcached()",
    "LMDBCached": ".lmdb_cached()",
    "resampled_": "wds.resampled",
    "tarfile_samples": "wds.tarfile_to_samples",
}
_REFUSED: dict[Any, tuple[str, str]] = {
    getattr(module, name): (_SPOKEN.get(name, f"wds.{name}"), advice)
    for module, members in _BY_MODULE.items()
    for name, advice in members.items()
    if hasattr(module, name)  # webdataset's versions differ
}
_REFUSED |= {
    itertools.islice: (".slice(), or a stage that slices its samples,", SLICED),
    itertools.cycle: ("itertools.cycle", _USE_EPOCHS),
    itertools.repeat: ("itertools.repeat", _USE_EPOCHS),
    IterableDataset: ("a dataset", _NO_SOURCE),
    DataLoader: ("a DataLoader", _NO_SOURCE),
}
_METHODS = {"with_epoch": _USE_EPOCHS, "repeat": _USE_EPOCHS, "with_length": _USE_LENGTH, "lmdb_cached": _NO_CACHE}
REFUSED_CODES = {kind.__code__: entry for kind, entry in _REFUSED.items() if hasattr(kind, "__code__")}
"""Code of each refused function → its name and advice: by it a running generator is recognised."""

# Splitters of other people's scripts are called after webdataset's.
_SPLITTER = re.compile(r"(split|shard)\w*(node|worker|rank|process|replica)|(node|worker|rank)_?split", re.IGNORECASE)


def refuse_if_tie_breaks(stage: object) -> None:
    """Raises PipelineError for a stage that would break the tie or choose samples again, with a way to do without it.

    Args:
        stage: a pipeline stage, or the name of a method that adds none.
    """
    if isinstance(stage, str):
        refuse(f".{stage}()", _METHODS[stage])
    if not callable(stage) and not isinstance(stage, (webdataset.PipelineStage, IterableDataset, DataLoader)):
        hint = "; pass several as compose(first, second, …)" if isinstance(stage, (list, tuple)) else ""
        raise PipelineError(f"{stage!r} is no pipeline stage: a stage is called with samples, and yields them{hint}")
    for candidate in _candidates(stage):
        if _hashable(candidate) and candidate in _REFUSED:
            refuse(*_REFUSED[candidate])
    for layer in layers(stage):
        name = getattr(layer, "__name__", "")
        if isinstance(name, str) and _SPLITTER.search(name):
            refuse(name, _USE_PLAN)


def refuse(name: str, advice: str) -> None:
    """Raises PipelineError for a stage of this name."""
    raise PipelineError(f"{name} can't stand in an InfoBatchStreamDataset: {advice}")


def _candidates(stage: object) -> Iterator[Any]:
    """The layers of a stage, and what its functions call with the samples that they receive."""
    yield from layers(stage)
    for function in functions_in(stage):
        for called in calls_on_source(function):
            yield from layers(called)


def _hashable(value: object) -> bool:
    return getattr(type(value), "__hash__", None) is not None
