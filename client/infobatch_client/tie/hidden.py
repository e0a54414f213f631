"""Recognises a stage that breaks the tie by the iterators that it has made, however it came to them."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any

from infobatch_client.tie.refusals import REFUSED_CODES, SLICED, refuse

__all__ = ["holds", "refuse_hidden"]

_DEEPEST = 6
_WIDEST = 1000


def refuse_hidden(outputs: Iterator[Any], source: Iterator[Any], stage: str) -> None:
    """Raises PipelineError if a stage reads its samples through a refused function of webdataset, or slices them.

    An iterator of CPython shows what it holds, a suspended generator's variables and loops included. An iterator over
    anything but the samples, such as the frames of a video, is the stage's own business.

    Args:
        outputs: the stage's, once it has given one.
        source: the samples, as the stage has received them.
        stage: its name.
    """

    def look(holder: Any, depth: int) -> bool:
        """Whether `holder` reads the samples; refuses it if it is of a refused kind."""
        reads = holder is source
        if not reads and depth < _DEEPEST:
            reads = any([look(held, depth + 1) for held in _read_by(holder)])
        if reads and holder is not source:
            if isinstance(holder, itertools.islice):
                refuse(f"{stage}, which slices its samples,", SLICED)
            if isinstance(holder, GeneratorType) and holder.gi_code in REFUSED_CODES:
                name, advice = REFUSED_CODES[holder.gi_code]
                refuse(f"{stage}, which calls {name},", advice)
        return reads

    look(outputs, 0)


def holds(outputs: Iterator[Any], source: Iterator[Any], wanted: Callable[[Any], bool]) -> bool:
    """Whether a stage holds an object that is wanted, in its variables or in containers of these.

    Args:
        outputs: the stage's iterator.
        source: its samples, which aren't looked into.
        wanted: called with each object.
    """
    todo, seen = [(held, 1) for held in _held(outputs)], set[int]()
    while todo and len(seen) < _WIDEST:
        held, depth = todo.pop()
        if held is source or id(held) in seen:
            continue
        seen.add(id(held))
        if wanted(held):
            return True
        if depth < _DEEPEST and (isinstance(held, (list, tuple, dict, set)) or hasattr(type(held), "__next__")):
            todo += [(inner, depth + 1) for inner in _held(held)]
    return False


def _read_by(holder: Any) -> list[Any]:
    """The iterators that an iterator reads, or may read; `map` and `zip` hold them in a tuple."""
    return [held for held in _held(holder) if hasattr(type(held), "__next__") or isinstance(held, tuple)]


def _held(holder: Any) -> list[Any]:
    frame = holder.gi_frame if isinstance(holder, GeneratorType) else None
    return gc.get_referents(holder) + ([] if frame is None else gc.get_referents(frame))
