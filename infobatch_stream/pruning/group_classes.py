"""A policy's classes within each group: what it answers about each group's samples alone, as one answer about all.

The samples of a group, gathered in the order of their indices, are to a policy what a run of these shards alone would
be: its mean is summed over blocks of 65,536 of them, its ranks count among them, its fractions are of them. So a plan's
classes are those of one run for each group, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.pruning.answer import checked_classes
from infobatch_stream.pruning.draw import CodesOf
from infobatch_stream.pruning.groups import MAX_GROUPS, Groups, Ranges
from infobatch_stream.pruning.policies import KEPT, Classification, ClassRow, Policy, Position, ScoreView
from infobatch_stream.scores.blocks import GatheredScores

__all__ = ["GroupAnswer", "check_per_group", "classes_by_group", "scores_of"]

_MAX_ROWS = MAX_GROUPS + 1


def check_per_group(policy: Policy, groups: Groups | None) -> None:
    """Raises ConfigError if a policy with `per_group` has no groups, or more than there are codes for."""
    if not policy.per_group:
        return
    if groups is None:
        raise ConfigError(
            "per_group=True makes a threshold for each group of shards, and there are no groups: give groups=, such as "
            'groups={"web": "web-*.tar", "books": "books-*.tar"}, or leave out per_group'
        )
    if (num_rows := 1 + len(groups) * policy.pruned_classes) > _MAX_ROWS:
        raise ConfigError(
            f"{len(groups)} groups with {policy.pruned_classes} pruned classes each make {num_rows} classes with "
            f"per_group=True, and {_MAX_ROWS} are allowed: use fewer groups"
        )


@dataclass(frozen=True, kw_only=True)
class GroupAnswer:
    """What a policy says of one group.

    Args:
        classification: about the group's samples, gathered.
        table: uint8: the class's code in the plan, by its code in the classification.
    """

    classification: Classification
    table: npt.NDArray[np.uint8]

    @property
    def cut_code(self) -> int | None:
        """The plan's code of the class that the group's threshold made."""
        cut = self.classification.cut_class
        return None if cut is None else int(self.table[cut])


def scores_of(view: ScoreView, ranges: Ranges) -> GatheredScores:
    """The scores of some ranges, gathered."""
    return GatheredScores(view.score, ranges.starts, ranges.stops)


def classes_by_group(
    policy: Policy, view: ScoreView, groups: Groups, num_samples: Sequence[int], position: Position
) -> tuple[Classification, list[GroupAnswer | None]]:
    """A policy's classes within each group, and its answers about the groups, by code.

    Rows that keep everything under the name "kept" are one class, code 0; others are named "<class>/<group>".

    Args:
        policy: with `per_group`.
        view: over all samples.
        groups: of the run.
        num_samples: by group, those that may be trained; a group of 0 has no answer.
        position: of the epoch.

    Raises:
        ConfigError: as for `checked_classes`; or more classes than there are codes for.
    """
    rows: list[ClassRow] = []
    answers: list[GroupAnswer | None] = []
    for code, (name, count) in enumerate(zip(groups.names, num_samples, strict=True)):
        if not count:
            answers.append(None)
            continue
        group_view = _GroupView(view, groups.ranges.of(code), count)
        classification = checked_classes(policy, group_view, position)
        if not rows and KEPT in classification.rows:
            rows.append(KEPT)
        table = [_place(row, name, rows) for row in classification.rows]
        if len(rows) > _MAX_ROWS:
            raise ConfigError(
                f"policy {policy.name!r} makes {len(rows)} classes in {code + 1} of {len(groups)} groups; {_MAX_ROWS} "
                "are allowed: use fewer groups, or leave out per_group"
            )
        answers.append(GroupAnswer(classification=classification, table=np.array(table, np.uint8)))
    found = [answer.classification for answer in answers if answer is not None]
    scored = [classification.num_scored for classification in found]
    whole = Classification(
        codes=_codes(groups.ranges, answers),
        rows=tuple(rows),
        num_scored=None if None in scored else sum(filter(None, scored)),
        prune_requested=sum(classification.prune_requested for classification in found),
    )
    return whole, answers


def _place(row: ClassRow, group: str, rows: list[ClassRow]) -> int:
    """The code of a group's row among all, which gets it if it is new."""
    if row == KEPT and KEPT in rows:
        return rows.index(KEPT)
    rows.append(row if row == KEPT else replace(row, name=f"{row.name}/{group}"))
    return len(rows) - 1


def _codes(ranges: Ranges, answers: Sequence[GroupAnswer | None]) -> CodesOf:
    starts, stops, groups = ranges.starts.tolist(), ranges.stops.tolist(), ranges.codes.tolist()
    before, places = [0] * len(answers), []  # of each range among its group's samples
    for start, stop, group in zip(starts, stops, groups, strict=True):
        places.append(before[group])
        before[group] += stop - start

    def codes(part: slice) -> npt.NDArray[np.uint8]:
        block = np.zeros(part.stop - part.start, np.uint8)
        first = int(np.searchsorted(ranges.stops, part.start, side="right"))
        for run in range(first, len(starts)):
            begin, end = max(part.start, starts[run]), min(part.stop, stops[run])
            if begin >= end:
                break
            answer, shift = answers[groups[run]], places[run] - starts[run]
            if answer is not None:
                found = answer.classification.codes(slice(begin + shift, end + shift))
                block[begin - part.start : end - part.start] = answer.table[found]
        return block

    return codes


class _GroupView(ScoreView):
    """The view of one group's samples, gathered. Built-in policies read the scores alone, which cost no copy."""

    _view: ScoreView
    _ranges: Ranges

    def __init__(self, view: ScoreView, ranges: Ranges, num_samples: int) -> None:
        for name, value in (("score", scores_of(view, ranges)), ("num_samples", num_samples), ("groups", None)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_view", view)
        object.__setattr__(self, "_ranges", ranges)

    @cached_property
    def stamp(self) -> npt.NDArray[np.uint16]:
        return self._gathered(self._view.stamp)

    @cached_property
    def visits(self) -> npt.NDArray[np.uint16]:
        return self._gathered(self._view.visits)

    @cached_property
    def columns(self) -> Mapping[str, npt.NDArray[Any]]:
        return _Gathered(self._view.columns, self._gathered)

    def _gathered(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        pieces = [values[a:b] for a, b in zip(self._ranges.starts, self._ranges.stops, strict=True)]
        if len(pieces) == 1:
            return pieces[0]
        gathered = np.concatenate(pieces)
        gathered.flags.writeable = False
        return gathered


class _Gathered(Mapping[str, npt.NDArray[Any]]):
    """Columns that are gathered when they are read."""

    def __init__(
        self, columns: Mapping[str, npt.NDArray[Any]], gather: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
    ) -> None:
        self._columns = columns
        self._gather = gather

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._gather(self._columns[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)
