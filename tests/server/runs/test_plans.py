"""Plans are drawn once and stay the same, and pushes continue during a draw."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from infobatch_server.runs.barrier import NotReady
from infobatch_server.state.limits import Limits
from infobatch_stream.errors import ConfigError, RunConflictError, RunNotFoundError
from infobatch_stream.plan.epoch_plan import EpochPlan, full_plan_id
from tests.server.bare_runs import attach, end, make_run, plan, push, train
from tests.server.conftest import Clock


def test_a_plan_is_drawn_once(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    first = plan(run, generation, 0)
    push(run, generation, 0, np.arange(1000.0))
    assert plan(run, generation, 0) is first


def test_epochs_open_in_order(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    with pytest.raises(RunConflictError, match="epoch 1 of run 'test' can't be opened: the newest epoch is -1"):
        run.plans.get(generation, 1)
    with pytest.raises(ConfigError, match="epoch 10 is outside the 10 epochs"):
        run.plans.get(generation, 10)


def test_old_plans_are_dropped_and_the_error_says_so(clock: Clock) -> None:
    run = make_run(clock, limits=Limits(keep_plans=2))
    generation = attach(run)
    plans = [train(run, generation, epoch) for epoch in range(4)]
    assert sorted(run.core.state.plan_ids) == [2, 3]
    assert run.plans.find(plans[3].plan_id) is plans[3]
    with pytest.raises(RunNotFoundError, match="no longer keeps a plan of epoch 1"):
        run.plans.get(generation, 1)
    with pytest.raises(RunNotFoundError, match="doesn't keep plan"):
        run.plans.find(plans[1].plan_id)


def test_a_mark_overrides_a_frozen_plan(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    frozen = plan(run, generation, 0)
    run.plans.mark_unpruned(generation, 0)
    run.plans.mark_unpruned(generation, 0)
    full = plan(run, generation, 0)
    assert full.plan_id == full_plan_id(run.run_id, 0)
    assert full.kept == 1000
    assert run.plans.find(frozen.plan_id) is frozen
    assert run.core.state.newest_plan is not None
    assert run.core.state.newest_plan.plan_id == full.plan_id


def test_ending_an_unpruned_epoch_is_a_mark_too(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    end(run, generation, 0, full_plan_id(run.run_id, 0))
    assert plan(run, generation, 0).unpruned
    assert plan(run, generation, 1).epoch == 1


def test_an_unusual_low_class_warns_and_is_counted(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(clock)
    generation = attach(run)
    first = plan(run, generation, 0)
    push(run, generation, 0, np.r_[1e9, np.random.default_rng(0).random(999)])
    end(run, generation, 0, first.plan_id)
    with caplog.at_level(logging.WARNING):
        plan(run, generation, 1)
    assert "the pruned class is 0.999 of the scored samples" in caplog.text
    assert run.core.state.unusual_low_classes == 1


def test_pushes_during_a_draw_are_answered_and_the_plan_does_not_see_them(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infobatch_server.runs import plans as run_plans

    run = make_run(clock)
    generation = attach(run)
    first = plan(run, generation, 0)
    end(run, generation, 0, first.plan_id)
    draw = run_plans.draw_plan

    def draw_while_pushing(*args: object, **fields: object) -> EpochPlan:
        push(run, generation, 0, np.arange(1000.0))
        assert isinstance(run.plans.get(generation, 1), NotReady)
        return draw(*args, **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(run_plans, "draw_plan", draw_while_pushing)
    got = plan(run, generation, 1)
    assert (got.never_scored, got.journal_position) == (1000, 0)
    assert run.core.feed.table.num_scored == 1000


def test_a_failed_draw_resumes_the_feed(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    from infobatch_server.runs import plans as run_plans

    run = make_run(clock)
    generation = attach(run)

    def fail(*args: object, **fields: object) -> EpochPlan:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(run_plans, "draw_plan", fail)
        with pytest.raises(MemoryError):
            run.plans.get(generation, 0)
    assert plan(run, generation, 0).kept == 1000
