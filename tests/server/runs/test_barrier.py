"""Plans wait for ranks, up to the time-out; the tests move the clock."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from infobatch_server.runs.barrier import NotReady
from infobatch_server.state.run_state import ResumePoint
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.bare_runs import attach, end, make_run, plan, train
from tests.server.calls import Caller, make_spec
from tests.server.conftest import Clock
from tests.server.jobs import SAMPLES, Job, scores_of, start_of


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
    assert "was drawn after the time-out; ranks [1] had not ended epoch 0" in caplog.text
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


# The same through real calls.


def ended_by_all_but(caller: Caller, run: bytes, *, missing: int, world_size: int = 3) -> Job:
    """A job that is about to begin epoch 1, one rank of which has not ended epoch 0."""
    job = Job.attach(caller, run, world_size)
    plan = job.plan(0)
    for rank in range(world_size):
        job.push(0, np.arange(rank, SAMPLES, world_size), scores_of(0), rank)
        if rank != missing:
            job.end(0, plan.plan_id, rank)
    return job


def test_a_waiting_job_learns_the_missing_ranks_until_the_last_one_ends(
    caller: Caller, run: bytes, clock: Clock
) -> None:
    job = ended_by_all_but(caller, run, missing=1)
    waits = []
    for _ in range(5):
        answer = job.not_ready(1)
        assert list(answer.missing_ranks) == [1]
        waits.append(answer.retry_after_ms)
        clock.now += 4
    assert waits == sorted(waits), "calmer the longer it takes"
    job.end(0, caller.plan(run, job.generation, 0).plan_id, rank=1)
    assert job.plan(1).pruned > 0


def test_the_time_out_starts_at_the_first_request_and_is_logged_and_counted(
    caller: Caller, run: bytes, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    job = ended_by_all_but(caller, run, missing=2)
    clock.now += 1000
    assert list(job.not_ready(1).missing_ranks) == [2]
    for _ in range(2):
        clock.now += 29.9
        assert list(job.not_ready(1).missing_ranks) == [2], "asking does not put the end off"
    clock.now += 0.3
    with caplog.at_level(logging.WARNING, logger="infobatch_server"):
        plan = job.plan(1)
    assert caplog.text.count("ranks [2] had not ended epoch 0") == 1
    assert caller.stub.GetRun(pb.GetRunRequest(run_id=run)).run.barrier_timeouts == 1
    job.push(0, np.arange(5), scores_of(0, salt=1), rank=2)
    assert job.end(0, caller.plan(run, job.generation, 0).plan_id, rank=2) == []
    assert job.plan(1).plan_id == plan.plan_id, "who comes late does not change it"


def test_a_new_generation_has_its_own_time_out(caller: Caller, run: bytes, clock: Clock) -> None:
    job = ended_by_all_but(caller, run, missing=0)
    job.not_ready(1)
    clock.now += 59
    again = Job.attach(caller, run, 2, nonce=b"m" * 16, takeover=True, resume=start_of(0))
    again.plan(0)
    assert list(again.not_ready(1).missing_ranks) == [0, 1]
    clock.now += 59
    assert list(again.not_ready(1).missing_ranks) == [0, 1]
    clock.now += 1.1
    again.plan(1)


@pytest.mark.parametrize("resumed", [False, True])
def test_the_first_plan_of_a_generation_is_ready_at_once(caller: Caller, run: bytes, resumed: bool) -> None:
    if not resumed:
        assert Job.attach(caller, run, 5).plan(0).epoch == 0
        return
    Job.attach(caller, run).train(0, scores_of(0))
    assert Job.attach(caller, run, 5, nonce=b"m" * 16, takeover=True, resume=start_of(1)).plan(1).generation == 2


@pytest.mark.parametrize("policy", ["random", "full"])
def test_plans_without_scores_are_ready_at_once(caller: Caller, policy: str) -> None:
    job = Job.attach(caller, caller.create(make_spec(policy=policy, delta="0.5")).run_id, 3)
    assert [job.plan(epoch).epoch for epoch in range(10)] == list(range(10))


def test_annealed_plans_are_ready_at_once(caller: Caller) -> None:
    job = Job.attach(caller, caller.create(make_spec(delta="0.1")).run_id, 3)
    job.plan(0)
    assert [job.plan(epoch).unpruned for epoch in range(1, 10)] == [True] * 9


def test_marks_of_old_epochs_are_dropped_and_late_ends_of_theirs_are_still_answered(clock: Clock) -> None:
    run = make_run(clock, make_spec(epochs=40, num_samples=100))
    generation = attach(run)
    plans = [train(run, generation, epoch).plan_id for epoch in range(30)]
    assert run.core.barrier.num_marks == 8
    assert end(run, generation, 0, plans[0]) == ()
    assert run.core.state.ended == dict.fromkeys(range(30), run.core.state.ended[0])
    assert plan(run, generation, 30).epoch == 30
