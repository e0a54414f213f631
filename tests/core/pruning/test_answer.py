"""A policy's answer is checked: a wrong one is an error that names the policy, never wrong samples or weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from infobatch_stream.errors import ConfigError
from infobatch_stream.planner import draw_plan
from infobatch_stream.pruning.policies import KEPT, Classification, ClassRow, Policy, Position, ScoreView
from tests.core.worlds import RUN_ID, make_spec, make_table, some_scores

HALF = ClassRow(name="half", keep_65536=32_768)
N = 1000


def thirds(part: slice) -> np.ndarray:
    return (np.arange(part.start, part.stop) % 3).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Answers(Policy):
    """Returns what a test says."""

    name: ClassVar[str] = "answers"
    answer: ClassVar[Callable[[ScoreView], Any]]

    def classes(self, view: ScoreView, position: Position) -> Classification:
        return type(self).answer(view)  # type: ignore[no-any-return]


def drawn(monkeypatch: pytest.MonkeyPatch, answer: Callable[[ScoreView], Any]) -> Any:
    monkeypatch.setattr(Answers, "answer", staticmethod(answer), raising=False)
    spec = dataclasses.replace(make_spec([N]), policy=Answers())
    return draw_plan(spec, make_table(some_scores(N, 1)), run_id=RUN_ID, generation=1, epoch=1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda view: Classification(codes=thirds, rows=(KEPT, HALF)), "class code 2, and there are 2 rows"),
        (lambda view: Classification(codes=lambda part: thirds(part).astype(int), rows=(KEPT,) * 3), "are int64"),
        (lambda view: Classification(codes=lambda part: thirds(part)[1:], rows=(KEPT,) * 3), "one per sample"),
        (lambda view: Classification(codes=lambda part: [0], rows=(KEPT,)), "codes are list"),
        (lambda view: Classification(codes=lambda part: 1 / 0, rows=(KEPT,)), "codes raised ZeroDivisionError"),
        (lambda view: Classification(codes=thirds, rows=()), "returned 0 rows"),
        (lambda view: Classification(codes=thirds, rows=(KEPT,) * 256), "returned 256 rows"),
        (lambda view: None, "returned a NoneType"),
        (lambda view: view.columns["missing"], "raised KeyError: 'missing'"),
        (lambda view: exit("no"), "raised SystemExit: no"),
        (lambda view: np.subtract(view.score[:], 1, out=view.score[:]), "raised ValueError: .*read-only"),
        (lambda view: np.add(view.stamp, 1, out=view.stamp), "raised ValueError: .*read-only"),
    ],
)
def test_a_wrong_answer_is_an_error_that_names_the_policy(
    answer: Callable[[ScoreView], Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=rf"policy 'answers', epoch 1: .*{words}"):
        drawn(monkeypatch, answer)


@pytest.mark.parametrize(
    "settings", [{"keep_65536": 65_537}, {"keep_65536": -5}, {"keep_65536": 0.5}, {"keep_count": -1}]
)
def test_a_row_outside_its_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="class 'x': keep_"):
        ClassRow(name="x", **settings)


@pytest.mark.parametrize("row", [ClassRow(name="x", keep_65536=0), ClassRow(name="x", keep_count=0)])
def test_a_policy_that_drops_a_whole_class_is_biased_whatever_it_says(
    row: ClassRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = drawn(monkeypatch, lambda view: Classification(codes=thirds, rows=(KEPT, row, HALF)))
    assert plan.biased
    assert (plan.classes[1].kept, plan.classes[1].weight) == (0, 0)


def test_bools_are_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = drawn(monkeypatch, lambda view: Classification(codes=lambda part: thirds(part) == 1, rows=(KEPT, HALF)))
    assert not plan.biased
    assert plan.classes[1].size == N // 3
