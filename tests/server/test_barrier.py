"""Which plans wait for which ranks, and for how long; the clock is the tests'."""

from __future__ import annotations

import logging

import pytest

from infobatch_server.barrier import NotReady
from infobatch_server.run_state import ResumePoint
from tests.server.calls import make_spec
from tests.server.conftest import Clock
from tests.server.runs import attach, end, make_run, plan, train


def test_a_plan_waits_for_every_rank_of_the_generation(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run, world_size=3)
    first = plan(run, generation, 0)
    assert end(run, generation, 0, first.plan_id, rank=1) == (0, 2)
    answer = run.plans.get(generation, 1)
    assert isinstance(answer, NotReady)
    assert answer.missing_ranks == (0, 2)
    assert answer.retry_after_ms >= 1
    end(run, generation, 0, first.plan_id, rank=0)
    assert end(run, generation, 0, first.plan_id, rank=2) == ()
    assert plan(run, generation, 1).epoch == 1


def test_marks_are_idempotent(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run, world_size=2)
    first = plan(run, generation, 0)
    for _ in range(3):
        assert end(run, generation, 0, first.plan_id) == (1,)


def test_the_barrier_times_out_counted_from_the_first_request(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(clock)
    generation = attach(run, world_size=2)
    first = plan(run, generation, 0)
    end(run, generation, 0, first.plan_id)
    clock.now += 500
    assert isinstance(run.plans.get(generation, 1), NotReady)
    clock.now += 59.9
    answer = run.plans.get(generation, 1)
    assert isinstance(answer, NotReady)
    assert answer.retry_after_ms == 1000
    clock.now += 0.2
    with caplog.at_level(logging.WARNING):
        plan(run, generation, 1)
    assert "went out after the time-out; ranks [1] had not ended epoch 0" in caplog.text
    assert run.core.state.barrier_timeouts == 1


@pytest.mark.parametrize("policy", ["random", "full"])
def test_plans_that_need_no_scores_never_wait(clock: Clock, policy: str) -> None:
    run = make_run(clock, make_spec(policy=policy))
    generation = attach(run, world_size=2)
    for epoch in range(10):
        plan(run, generation, epoch)


def test_annealed_epochs_never_wait(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run, ResumePoint(epoch=7), world_size=2)
    plan(run, generation, 7)
    assert plan(run, generation, 8).unpruned
    assert plan(run, generation, 9).unpruned


def test_a_generations_first_plan_never_waits(clock: Clock) -> None:
    run = make_run(clock)
    train(run, attach(run), 0)
    second = attach(run, ResumePoint(epoch=1), nonce=1, world_size=4, takeover=True)
    assert plan(run, second, 1).generation == 2
