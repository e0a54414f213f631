"""The uniforms of a run into which scores were imported: its own, and the same for the same scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from infobatch_server.runs.run import Run
from infobatch_server.state.run_state import ResumePoint
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.planner import draw_plan, seed_after_import
from infobatch_stream.wire.specs import seal
from tests.server.bare_runs import attach, end, make_run, plan, push
from tests.server.calls import make_spec
from tests.server.conftest import Clock

SPEC = make_spec()
SCORES = np.random.default_rng(3).exponential(size=1000).astype(np.float32)
STAMPS = np.full(1000, 4, np.uint16)


def imported(clock: Clock, *parts: slice, scores: np.ndarray = SCORES, stamped: bool = False) -> Run:
    run = make_run(clock)
    for part in parts or (slice(0, 1000),):
        run.import_scores(part.start, scores[part], STAMPS[part] if stamped else None)
    return run


def drawn(run: Run, epoch: int = 1, nonce: int = 0) -> EpochPlan:
    """The first plan of the next generation, which starts at an epoch."""
    return plan(run, attach(run, ResumePoint(epoch=epoch), nonce=nonce, takeover=True), epoch)


def same_draw(a: EpochPlan, b: EpochPlan) -> bool:
    return np.array_equal(a.keep_bits, b.keep_bits)


def test_nothing_imported_keeps_the_spec_s_uniforms(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    first = plan(run, generation, 0)
    push(run, generation, 0, SCORES)
    end(run, generation, 0, first.plan_id)
    second = plan(run, generation, 1)
    expected = draw_plan(SPEC, run.core.feed.table, run_id=run.run_id, generation=1, epoch=1, journal_position=1)
    assert second.plan_id == seal(expected).plan_id
    assert (run.core.state.draw_seed, run.core.state.scores_imported) == (None, False)


def test_the_same_scores_give_the_same_plans_however_they_are_imported(clock: Clock) -> None:
    whole = drawn(imported(clock))
    for parts in (
        [slice(0, 1000)] * 2,
        [slice(0, 10), slice(10, 1000)],
        [slice(500, 1000), slice(0, 600)],
        [slice(0, 0), slice(0, 1000)],
    ):
        assert same_draw(drawn(imported(clock, *parts)), whole)
    stamped, unstamped = (drawn(imported(clock, stamped=stamped), epoch=0) for stamped in (True, False))
    assert same_draw(stamped, unstamped), "a run that starts at epoch 0 lowers all stamps"


def test_another_score_gives_other_uniforms(clock: Clock) -> None:
    other = SCORES.copy()
    other[17] = np.nextafter(other[17], np.float32(np.inf))
    plans = [drawn(imported(clock)), drawn(imported(clock, scores=other))]
    draws = [np.unpackbits(plan.keep_bits, bitorder="little", count=1000) for plan in plans]
    low = plans[0].codes(np.arange(1000)) == 1
    assert 0.4 < (draws[0] == draws[1])[low].mean() < 0.6


def test_the_plan_keeps_the_run_s_seed_for_its_order(clock: Clock) -> None:
    run = imported(clock)
    got = drawn(run)
    assert got.seed == SPEC.seed
    table = run.core.feed.table
    seed = seed_after_import(SPEC.seed, table)
    expected = draw_plan(SPEC, table, run_id=run.run_id, generation=1, epoch=1, draw_seed=seed)
    assert seal(expected).plan_id == got.plan_id
    assert not same_draw(draw_plan(SPEC, table, run_id=run.run_id, generation=1, epoch=1), got)


@pytest.mark.parametrize("draw", ["bernoulli", "exact"])
def test_the_scores_own_run_draws_others(clock: Clock, draw: str) -> None:
    """Also with the tie-break's words: an exact draw has the same lanes to decide by."""
    spec = make_spec(draw=draw)
    old, new = make_run(clock, spec), make_run(clock, spec)
    old.core.feed.table.score[:] = SCORES
    new.import_scores(0, SCORES, None)
    assert not same_draw(drawn(old), drawn(new))


def test_later_epochs_and_generations_keep_the_seed_of_the_first_draw(clock: Clock) -> None:
    run = imported(clock)
    generation = attach(run, ResumePoint(epoch=1))
    first = plan(run, generation, 1)
    seed = run.core.state.draw_seed
    assert seed == seed_after_import(SPEC.seed, imported(clock).core.feed.table)
    push(run, generation, 1, SCORES * np.float32(0.5))
    end(run, generation, 1, first.plan_id)
    plan(run, generation, 2)
    redrawn = drawn(run, nonce=1)
    assert run.core.state.draw_seed == seed
    assert not same_draw(redrawn, first), "the generation tells a redrawn plan from the first"
    epochs = run.amend(epochs=20, delta=None, anneal_epoch_check=17).epochs
    drawn(run, epoch=2, nonce=2)
    assert (run.core.state.draw_seed, epochs) == (seed, 20)


def test_a_second_import_gives_another_seed(clock: Clock) -> None:
    run = imported(clock)
    drawn(run)
    first = run.core.state.draw_seed
    run.detach(1)
    run.import_scores(0, SCORES[:1], None)
    assert run.core.state.scores_imported
    drawn(run, nonce=1)
    assert run.core.state.draw_seed == first, "the same scores again"
    run.detach(2)
    run.import_scores(3, SCORES[:1], None)
    drawn(run, nonce=2)
    assert run.core.state.draw_seed not in (first, None)


def test_unpruned_epochs_leave_the_seed_to_the_first_draw(clock: Clock) -> None:
    run = imported(clock)
    drawn(run, epoch=9)
    assert run.core.state.scores_imported
    drawn(run, epoch=1, nonce=1)
    assert (run.core.state.scores_imported, run.core.state.draw_seed is None) == (False, False)


def test_a_job_whose_lease_ended_before_the_import_draws_with_the_new_seed(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run, ResumePoint(epoch=1))
    clock.now += 31
    run.import_scores(0, SCORES, None)
    late = plan(run, generation, 1)
    assert same_draw(late, drawn(imported(clock)))


def test_an_imported_plan_alone_changes_no_uniforms(clock: Clock) -> None:
    source = imported(clock)
    moved = make_run(clock)
    first = drawn(source)
    moved.import_plan(first)
    inside = ResumePoint(epoch=1, plan_id=first.plan_id)
    assert plan(moved, attach(moved, inside), 1).plan_id == first.plan_id
    assert moved.core.state.draw_seed is None
    both = imported(clock)
    both.import_plan(first)
    generation = attach(both, inside)
    resumed = plan(both, generation, 1)
    assert (resumed.plan_id, generation) == (first.plan_id, 2)
    end(both, generation, 1, first.plan_id)
    plan(both, generation, 2)
    assert both.core.state.draw_seed == seed_after_import(SPEC.seed, both.core.feed.table)


def test_a_state_with_a_seed_outlives_its_process(clock: Clock) -> None:
    """A store that loads the state again draws the same."""
    run = imported(clock)
    first = drawn(run)
    state = replace(run.core.state, plan_ids={}, last_epoch=0, lease=None, generation=0)
    again = make_run(clock)
    again.core.feed.table.score[:] = SCORES
    again.core.adopt(state)
    assert same_draw(drawn(again), first)
