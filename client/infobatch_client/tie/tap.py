"""A tap around a stage that isn't known to keep the tie: raises before an output can leave with a wrong sample."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from infobatch_client.tie.hidden import holds, refuse_hidden
from infobatch_client.tie.one_for_one import shows_one_for_one
from infobatch_client.tie.packing import PullCounts
from infobatch_client.tie.stages import declared_drops, stage_name
from infobatch_stream.errors import PipelineError

__all__ = ["Tap", "two_for_one"]

_REMEMBERED = 8  # a stage without keys that holds back up to so many samples is still detected
_LOOKS = 4  # so many times, a stage that drops is searched for samples that it holds
_SMALL = (type(None), bool, int, float, str, bytes)  # samples share such values
_SHARED = (type(None), bool, int, float)  # as text of the data is an object of its own for each
_DECLARE = (
    "say by infobatch_stream.may_drop(stage) that it drops samples, or by may_drop(stage, False) that it gives one "
    "output for each; or let it yield __key__ too"
)


class Tap:
    """Watches a stage, whose outputs it ties to the sample pulled last, for as long as that can be told to be right.

    By `__key__` where input and output have one. Without, an output may come after one sample only, unless it holds a
    part of the last sample as that came, or the stage declares that it drops samples.

    Args:
        stage: of one pass.
        shuffled: off: nothing is concluded from how many samples it skips, which in index order may be periodic.
    """

    def __init__(self, stage: object, *, shuffled: bool = True) -> None:
        self._stage = stage
        self._shuffled = shuffled
        self._name = stage_name(stage)
        self._drops = declared_drops(stage)
        self._pulls = 0
        self._last = _Item(None)
        self._earlier: deque[_Item] = deque(maxlen=_REMEMBERED)
        self._consumer: int | None = None
        self._other_thread = False
        self._ahead = False  # the output before came after several samples
        self._known = False
        self._looks = _LOOKS
        self._counts = PullCounts()

    def outputs(self, invoke: Callable[..., Any], source: Iterator[Any]) -> Iterator[Any]:
        """The stage's outputs over `source`, each checked before it is yielded."""
        self._source = self._pulled(source)
        self._outputs = iter(invoke(self._stage, self._source))
        while True:
            self._pulls, self._consumer = 0, threading.get_ident()
            try:
                item = next(self._outputs)
            except StopIteration:
                return
            finally:
                self._consumer = None
            self._check(item)
            yield item

    def _pulled(self, source: Iterator[Any]) -> Iterator[Any]:
        for item in source:
            if self._consumer != threading.get_ident():
                self._other_thread = True
            self._pulls += 1
            self._earlier.append(self._last)
            self._last = _Item(item)
            yield item

    def _check(self, item: Any) -> None:
        if self._other_thread:
            raise PipelineError(
                f"stage {self._name} pulls samples ahead or in another thread, so that an output can't be tied to its "
                "sample; let DataLoader workers (num_workers=…) work ahead instead"
            )
        if self._pulls == 0:
            raise PipelineError(held_back(self._name) if self._ahead else two_for_one(self._name))
        self._ahead = self._pulls > 1
        key, expected = _key(item), self._last.key
        if key is not None and expected is not None:
            if key != expected:
                raise PipelineError(self._wrong_key(key, expected))
        else:
            self._check_without_key(item)
        if not self._known:
            refuse_hidden(self._outputs, self._source, f"stage {self._name}")
            self._known = True

    def _check_without_key(self, item: Any) -> None:
        parts, last = _parts(item), self._last.parts
        if any(part not in last and any(part in earlier.parts for earlier in self._earlier) for part in parts):
            raise PipelineError(
                f"stage {self._name} gave parts of a sample that it had pulled earlier: it holds samples back, and "
                "scores would go to the wrong sample; make it one output for one input"
            )
        if self._known and self._pulls == 1 and not self._drops:
            return
        if self._shows_last(item):
            return
        if self._drops:
            self._check_for_packing()
        elif self._pulls > 1 and self._drops is not None:
            raise PipelineError(
                f"stage {self._name} is declared to give one output for each sample, but pulled {self._pulls} for one: "
                "if it drops samples, declare it by infobatch_stream.may_drop(stage); samples that it merges belong "
                "together in collate_fn, or when the shards are written"
            )
        elif self._pulls > 1:
            raise PipelineError(
                f"stage {self._name} pulled {self._pulls} samples for one output without a __key__: if it drops "
                f"samples, {_DECLARE}; if it holds them back, make it one output for one input"
            )
        elif self._drops is None and not shows_one_for_one(self._stage):
            raise PipelineError(
                f"the outputs of stage {self._name} have no __key__ and no part of their sample as it came, and its "
                f"source doesn't show that each sample gets one: {_DECLARE}"
            )

    def _shows_last(self, item: Any) -> bool:
        """Whether an output is made of parts of the sample pulled last as these came, which the ones before haven't."""
        last = self._last
        if item is last.item:
            return not isinstance(item, _SMALL)
        if not isinstance(item, (dict, tuple, list)) or any(part not in last.parts for part in _parts(item)[1:]):
            return False
        fresh = set(_parts(item, small=_SHARED)) & set(_parts(last.item, small=_SHARED))
        return any(all(part not in _parts(earlier.item, small=()) for earlier in self._earlier) for part in fresh)

    def _check_for_packing(self) -> None:
        """A stage that merges samples, in spite of its declaration: by what it holds, and by how many it pulls."""
        skipped: set[int] = set()
        if self._pulls > 1 and self._looks:
            self._looks -= 1
            before = list(self._earlier)[-(self._pulls - 1) :]
            skipped = set[int]().union(*(earlier.parts for earlier in before)) - self._last.parts
        merges = bool(skipped) and holds(self._outputs, self._source, lambda held: id(held) in skipped)
        if merges or (self._shuffled and self._counts.add(self._pulls)):
            raise PipelineError(
                f"stage {self._name} is declared to drop samples, but merges or packs them: it pulled {self._pulls} "
                "for this output, which belongs to no single sample; merge them in collate_fn, or when the shards are "
                "written"
            )

    def _wrong_key(self, key: object, expected: object) -> str:
        if str(key) != str(expected) and str(expected) in str(key):
            return (
                f"stage {self._name} gave sample {key!r} for {expected!r}: it changes __key__. Leave that as it is; if "
                "it gives several outputs for a sample, put those crops or views into one tuple, for a sample has one "
                "score"
            )
        return (
            f"stage {self._name} gave sample {key!r} after it pulled {expected!r}: it holds samples back or "
            "changes __key__, and scores would go to the wrong sample; make it one output for one input"
        )


class _Item:
    """A sample as a stage has pulled it; holding it keeps the identities of its parts from being used again."""

    __slots__ = ("_parts", "item", "key")

    def __init__(self, item: Any) -> None:
        self.item = item
        self.key = _key(item)
        self._parts: frozenset[int] | None = None

    @property
    def parts(self) -> frozenset[int]:
        if self._parts is None:
            self._parts = frozenset(_parts(self.item))
        return self._parts


def _key(item: Any) -> object:
    return item.get("__key__") if isinstance(item, dict) else None


def _parts(item: Any, small: tuple[type, ...] = _SMALL) -> list[int]:
    """Identities of a payload, first, and of its parts, without values of the kinds that samples share."""
    parts = item.values() if isinstance(item, dict) else item if isinstance(item, (tuple, list)) else ()
    return [
        *([] if isinstance(item, small) else [id(item)]),
        *(id(part) for part in parts if not isinstance(part, small)),
    ]


def held_back(name: str) -> str:
    """The message about a stage of this name that pulls several samples, and then gives several outputs."""
    return (
        f"{name} pulled several samples and gave several outputs after them: it holds samples back, as a shuffle or a "
        "prefetcher does, and scores would go to the wrong sample; leave it out: the plan order shuffles, and "
        "DataLoader workers (num_workers=…) work ahead"
    )


def two_for_one(name: str) -> str:
    """The message about a stage of this name that gives two outputs for a sample."""
    return (
        f"{name} gave two outputs for one sample: a sample has one score, so a stage gives one output or none; "
        "put the crops or views of a sample into one tuple"
    )
