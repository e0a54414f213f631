"""Finds all that an object gives out, and writes into it."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from google.protobuf.message import Message
from webdataset.compat import FluidInterface
from webdataset.pipeline import DataPipeline

__all__ = ["public_values", "scribble"]

_OURS = ("infobatch_client", "infobatch_stream")
# webdataset's own attributes, by which a pipeline is changed on purpose.
_WEBDATASET = {*dir(DataPipeline), *dir(FluidInterface), "pipeline", "repetitions", "nsamples"}
# Calls without arguments that do something, so that looking at their results isn't all that happens.
_ACTS = {"clear_cache", "close", "epochs", "flush", "set_ranks", "skip", "ticketed"}


def public_values(root: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of whatever can be written into among the public attributes of an object, and of those of theirs.

    Attributes, properties and the results of methods that can be called without arguments, each looked at anew; of one
    type, nothing inside another of it.
    """
    found: deque[tuple[str, Any, frozenset[type]]] = deque([(name, root, frozenset())])
    seen = {id(root)}
    alive = []
    while found:
        path, value, around = found.popleft()
        if isinstance(value, (np.ndarray, torch.Tensor, bytearray, Message)):
            yield path, value
        elif isinstance(value, (dict, list, tuple, set)):
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            found.extend((f"{path}[{key!r}]", part, around) for key, part in parts)
            if not isinstance(value, tuple):
                yield path, value
        elif _is_of_ours(value) and type(value) not in around:
            for attribute, part in _attributes(value):
                if id(part) not in seen:
                    seen.add(id(part))
                    alive.append(part)  # so that no id is used again
                    found.append((f"{path}.{attribute}", part, around | {type(value)}))


def scribble(values: Iterable[tuple[str, Any]]) -> list[str]:
    """Writes into everything, in place; the paths of what was written."""
    written = list(values)
    for _, value in reversed(written):  # what is inside a dict or list before it is emptied
        if isinstance(value, np.ndarray):
            _scribble_tensor(_as_tensor(value))
        elif isinstance(value, torch.Tensor):
            _scribble_tensor(value)
        elif isinstance(value, bytearray):
            value[:] = b"\xff" * len(value)
        elif isinstance(value, Message):
            value.Clear()
        elif isinstance(value, dict):
            value.update({key: "scribbled" for key in value}, scribbled=1)
        elif isinstance(value, list):
            value.reverse()
            value.append("scribbled")
        else:
            value.clear()
    return [path for path, _ in written]


def _is_of_ours(value: Any) -> bool:
    return any(base.__module__.startswith(_OURS) for base in type(value).__mro__)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    names = {*dir(type(value)), *getattr(value, "__dict__", ())}
    if dataclasses.is_dataclass(value):
        names |= {field.name for field in dataclasses.fields(value)}
    for name in sorted(names - _WEBDATASET):
        if name.startswith("_"):
            continue
        try:
            part = getattr(value, name)
            if inspect.ismethod(part):
                if name in _ACTS or any(
                    parameter.default is parameter.empty and parameter.kind not in (2, 4)
                    for parameter in inspect.signature(part).parameters.values()
                ):
                    continue
                part = part()
        except Exception:  # not in this state of the object
            continue
        yield name, part


def _as_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor in the array's memory, read-only or not: torch only warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)


def _scribble_tensor(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        if tensor.dtype == torch.bool:
            tensor.logical_not_()
        elif tensor.is_floating_point():
            tensor.mul_(-3).sub_(17)
        else:
            tensor.bitwise_not_()
