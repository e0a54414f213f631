"""A run's plan that is redrawn after a rewind, or drawn from imported scores, is as unbiased as the first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infobatch_server.runs import plans as run_plans
from infobatch_server.runs.run import Run
from infobatch_server.state.run_state import ResumePoint
from infobatch_stream.plan.epoch_plan import EpochPlan
from tests.core.unbiased import check_unbiased, random_directions, weighted_sum
from tests.server.bare_runs import attach, end, make_run, plan, push, push_some
from tests.server.calls import make_spec
from tests.server.conftest import Clock

pytestmark = pytest.mark.statistics

SAMPLES = 1009  # a prime, so that no share of it is whole
REWINDS = 400
DIRECTIONS = random_directions(SAMPLES)
BEFORE, AFTER = np.random.default_rng(5).exponential(size=(2, SAMPLES)).astype(np.float32)


def sums_of_redrawn_plans(clock: Clock) -> np.ndarray:
    """Σ weight·g (400, D): each of a run that drew epoch 1, gave the kept samples new scores, and was put back."""
    sums = []
    for seed in range(REWINDS):
        run = make_run(clock, make_spec(num_samples=SAMPLES, seed=seed))
        first = attach(run)
        unpruned = plan(run, first, 0)
        push(run, first, 0, BEFORE)
        end(run, first, 0, unpruned.plan_id)
        kept = plan(run, first, 1).kept_between(0, SAMPLES)
        # Which scores are new depends on the draw.
        push_some(run, first, 1, kept, AFTER[kept])
        second = attach(run, ResumePoint(epoch=1), nonce=1, takeover=True)
        redrawn = plan(run, second, 1)
        assert redrawn.pruned > 0
        kept = redrawn.kept_between(0, SAMPLES)
        sums.append(weighted_sum(DIRECTIONS, kept, redrawn.weights(kept)))
    return np.array(sums)


def test_a_plan_redrawn_after_a_rewind_is_unbiased(clock: Clock) -> None:
    assert check_unbiased(sums_of_redrawn_plans(clock), DIRECTIONS.sum(axis=0)) > 0


def test_the_check_detects_reused_uniforms(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = run_plans.draw_plan

    def without_generation(*args: Any, **fields: Any) -> EpochPlan:
        return draw(*args, **{**fields, "generation": 1})

    monkeypatch.setattr(run_plans, "draw_plan", without_generation)
    with pytest.raises(AssertionError, match="standard errors"):
        check_unbiased(sums_of_redrawn_plans(clock), DIRECTIONS.sum(axis=0))


def export(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Scores and stamps, as ReadScores gives them."""
    ((_, table),) = run.read_scores(0, SAMPLES, SAMPLES)
    return table.score, table.stamp


def first_plan(run: Run) -> EpochPlan:
    """The plan of epoch 1, of which the kept samples then have new scores."""
    generation = attach(run, ResumePoint(epoch=1))
    drawn = plan(run, generation, 1)
    kept = drawn.kept_between(0, SAMPLES)
    push_some(run, generation, 1, kept, AFTER[kept])
    return drawn


def sums_of_imported_runs(clock: Clock, length: int, stamped: bool) -> np.ndarray:
    """Σ weight·g (400, D), each of the last of a chain of runs: each run starts from the scores of the run before.

    All runs of a chain have the same seed, and draw epoch 1 in their first generation.
    """
    sums = []
    for seed in range(REWINDS):
        scores, stamps = BEFORE, None
        for place in range(length):
            run = make_run(clock, make_spec(num_samples=SAMPLES, seed=seed))
            if place:
                run.import_scores(0, scores, stamps)
            else:
                run.core.feed.table.score[:] = BEFORE  # as a run has them that nothing was imported into
            drawn = first_plan(run)
            scores, new_stamps = export(run)
            stamps = new_stamps if stamped else None
        assert drawn.pruned > 0
        kept = drawn.kept_between(0, SAMPLES)
        sums.append(weighted_sum(DIRECTIONS, kept, drawn.weights(kept)))
    return np.array(sums)


@pytest.mark.parametrize("stamped", [True, False])
@pytest.mark.parametrize("length", [2, 3])
def test_a_plan_drawn_from_the_scores_of_a_run_of_the_same_seed_is_unbiased(
    clock: Clock, length: int, stamped: bool
) -> None:
    assert check_unbiased(sums_of_imported_runs(clock, length, stamped), DIRECTIONS.sum(axis=0)) > 0


@pytest.mark.parametrize("length", [2, 3])
def test_the_check_detects_the_uniforms_of_the_run_that_the_scores_come_from(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(run_plans, "seed_after_import", lambda seed, table: seed)
    with pytest.raises(AssertionError, match="standard errors"):
        check_unbiased(sums_of_imported_runs(clock, length, True), DIRECTIONS.sum(axis=0))
