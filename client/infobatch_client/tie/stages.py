"""Pipeline stages: those of webdataset that keep the tie of sample and score, and the names of all in messages."""

from __future__ import annotations

import functools

from webdataset import filters

from infobatch_client.tie.declared import DeclaredStage
from infobatch_client.tie.layers import layers

__all__ = ["declared_drops", "keeps_tie", "stage_name"]

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


def keeps_tie(stage: object) -> bool:
    """True for webdataset's own one-to-at-most-one stages, which need no watching."""
    function = getattr(stage, "f", None)
    return isinstance(stage, filters.FilterFunction) and _hashable(function) and function in _KEEPS_TIE


def declared_drops(stage: object) -> bool | None:
    """Whether a stage declares, by `may_drop(stage)` or an attribute of that name, that it drops samples.

    Returns:
        None without a declaration.
    """
    for layer in layers(stage):
        if isinstance(declared := getattr(layer, "may_drop", None), bool):
            return declared
    return None


def stage_name(stage: object) -> str:
    """The name of a stage in a message."""
    while isinstance(stage, (DeclaredStage, functools.partial)):
        stage = stage.stage if isinstance(stage, DeclaredStage) else stage.func
    function = getattr(stage, "f", stage)
    name = getattr(function, "__name__", type(function).__name__).lstrip("_")
    args = getattr(stage, "args", ())
    inner = getattr(args[0], "__name__", type(args[0]).__name__) if args and not isinstance(args[0], str) else ""
    return f"{name}({inner})"


def _hashable(value: object) -> bool:
    return getattr(type(value), "__hash__", None) is not None
