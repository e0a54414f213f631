"""Pipeline stages: those of webdataset that keep the tie of sample and score, and those that break it."""

from __future__ import annotations

import itertools
from typing import Any

from webdataset import filters

from infobatch_stream.errors import PipelineError

__all__ = ["keeps_tie", "may_drop", "refuse_if_tie_breaks", "stage_name"]

# Generators that give at most one output for each input, before they pull the next.
_KEEPS_TIE = frozenset(
    stage.f
    for stage in (
        filters.info,
        filters.select,
        filters.log_keys,
        filters.decode,
        filters.map,
        filters.rename,
        filters.associate,
        filters.map_dict,
        filters.to_tuple,
        filters.map_tuple,
        filters.rsample,
        filters.extract_keys,
        filters.rename_keys,
        filters.xdecode,
    )
)

_USE_ORDER = "leave it out: the plan order shuffles, over all shards at once by default (see order=OrderChoice(…))"
_USE_LOADER = "leave it out: InfoBatchLoader(dataset, batch_size=…) makes the batches"
_USE_EPOCHS = "leave it out: the plan decides the epoch's samples, and loader.epochs() yields all epochs"
_NO_CACHE = "leave it out: shards are read by position, and a cache of samples would hold the wrong ones"

_REFUSED: dict[Any, tuple[str, str]] = {
    filters.shuffle.f: (".shuffle()", _USE_ORDER),
    filters.detshuffle: ("detshuffle", _USE_ORDER),
    filters.batched.f: (".batched() or .listed()", _USE_LOADER),
    filters.unbatched.f: (".unbatched()", _USE_LOADER),
    filters.unlisted.f: (".unlisted()", _USE_LOADER),
    itertools.islice: (".slice()", _USE_EPOCHS),
    filters.Cached: (".mcached()", _NO_CACHE),
    filters.LMDBCached: (".lmdb_cached()", _NO_CACHE),
    "with_epoch": (".with_epoch()", _USE_EPOCHS),
    "repeat": (".repeat()", _USE_EPOCHS),
    "with_length": (".with_length()", "leave it out: len(loader) is the number of batches"),
}


def refuse_if_tie_breaks(stage: object) -> None:
    """Raises PipelineError for a stage that would break the tie, with a way to do without it.

    Args:
        stage: a pipeline stage, or the name of a method that adds none.
    """
    for kind in (stage, getattr(stage, "f", None), type(stage)):
        if _hashable(kind) and kind in _REFUSED:
            name, advice = _REFUSED[kind]
            raise PipelineError(f"{name} can't stand in an InfoBatchStreamDataset: {advice}")


def keeps_tie(stage: object) -> bool:
    """True for webdataset's own one-to-at-most-one stages, which need no watching."""
    function = getattr(stage, "f", None)
    return isinstance(stage, filters.FilterFunction) and _hashable(function) and function in _KEEPS_TIE


def may_drop(stage: object) -> bool:
    """True for a user's stage that declares, by an attribute `may_drop = True`, that it drops samples."""
    return bool(getattr(stage, "may_drop", False))


def stage_name(stage: object) -> str:
    """The name of a stage in a message."""
    function = getattr(stage, "f", stage)
    name = getattr(function, "__name__", type(function).__name__).lstrip("_")
    args = getattr(stage, "args", ())
    inner = getattr(args[0], "__name__", type(args[0]).__name__) if args and not isinstance(args[0], str) else ""
    return f"{name}({inner})"


def _hashable(value: object) -> bool:
    return getattr(type(value), "__hash__", None) is not None
