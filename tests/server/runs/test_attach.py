"""Attaching, leases and resuming; the tests move the clock."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_server.runs.barrier import NotReady
from infobatch_server.state.run_state import EpochMark, ResumePoint
from infobatch_stream.errors import ConfigError, RunBusyError, RunConflictError, RunNotFoundError, SupersededError
from infobatch_stream.plan.epoch_plan import full_plan_id
from tests.server.bare_runs import attach, end, make_run, plan, push, train
from tests.server.calls import make_spec
from tests.server.conftest import Clock


def test_the_same_call_gets_the_same_generation(clock: Clock) -> None:
    run = make_run(clock)
    assert attach(run) == attach(run) == 1


def test_another_job_is_refused_while_the_lease_holds(clock: Clock) -> None:
    run = make_run(clock)
    attach(run)
    clock.now += 29
    message = "held by another process on host 'node1', pid 41, for another 1 s.*; end that job and wait"
    with pytest.raises(RunBusyError, match=message):
        attach(run, nonce=1)
    clock.now += 1
    assert attach(run, nonce=1) == 2


def test_every_call_renews_the_lease(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    for _ in range(3):
        clock.now += 20
        run.heartbeat(generation)
    with pytest.raises(RunBusyError):
        attach(run, nonce=1)


def test_a_takeover_does_not_wait(clock: Clock) -> None:
    run = make_run(clock)
    attach(run)
    assert attach(run, nonce=1, takeover=True) == 2


def test_a_jobs_next_attempt_does_not_wait(clock: Clock) -> None:
    run = make_run(clock)
    attach(run, job="slurm-7")
    assert attach(run, job="slurm-7", attempt=1, nonce=1) == 2
    with pytest.raises(RunBusyError):
        attach(run, job="slurm-7", attempt=0, nonce=2)


def test_jobs_without_a_name_are_never_each_others_next_attempt(clock: Clock) -> None:
    run = make_run(clock)
    attach(run)
    with pytest.raises(RunBusyError):
        attach(run, attempt=1, nonce=1)


def test_a_clean_end_frees_the_lease(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    run.detach(generation)
    run.detach(generation)
    assert attach(run, nonce=1) == 2


def test_the_last_rank_to_end_frees_the_lease(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run, world_size=3)
    for rank in (2, 2, 0):
        run.detach(generation, rank)
        with pytest.raises(RunBusyError):
            attach(run, nonce=1)
    run.detach(generation, 1)
    assert attach(run, nonce=1) == 2


def test_the_other_ranks_continue_after_a_rank_has_ended(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run, world_size=2)
    first = plan(run, generation, 0)
    end(run, generation, 0, first.plan_id, rank=0)
    run.detach(generation, 0)
    push(run, generation, 0, np.ones(1000))
    assert end(run, generation, 0, first.plan_id, rank=1) == ()
    assert run.core.feed.table.num_scored == 1000


def test_a_partly_ended_job_keeps_its_lease_until_it_expires(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run, world_size=2)
    clock.now += 20
    run.detach(generation, 0)
    clock.now += 29
    with pytest.raises(RunBusyError):
        attach(run, nonce=1)
    clock.now += 1
    assert attach(run, nonce=1) == 2


def test_ranks_that_ended_in_an_older_generation_do_not_count(clock: Clock) -> None:
    run = make_run(clock)
    run.detach(attach(run, world_size=2), 0)
    generation = attach(run, nonce=1, world_size=2, takeover=True)
    run.detach(generation, 1)
    with pytest.raises(RunBusyError):
        attach(run, nonce=2)


def test_a_rank_outside_the_world_cannot_end(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run, world_size=2)
    with pytest.raises(ConfigError, match="rank 2 is outside the world size 2"):
        run.detach(generation, 2)
    run.detach(generation, 0)
    with pytest.raises(RunBusyError):
        attach(run, nonce=1)


def test_an_older_generation_is_superseded(clock: Clock) -> None:
    run = make_run(clock)
    old = attach(run)
    attach(run, nonce=1, takeover=True)
    for call in (
        lambda: run.heartbeat(old),
        lambda: push(run, old, 0, np.ones(3)),
        lambda: run.plans.get(old, 0),
        lambda: end(run, old, 0, "x"),
        lambda: run.plans.mark_unpruned(old, 0),
        lambda: run.detach(old),
    ):
        with pytest.raises(SupersededError, match="superseded: generation 1 of run 'test' was replaced by 2"):
            call()


@pytest.mark.parametrize("generation", [0, 2])
def test_a_generation_that_never_attached_is_refused(clock: Clock, generation: int) -> None:
    run = make_run(clock)
    attach(run)
    with pytest.raises(RunConflictError, match="never attached"):
        run.heartbeat(generation)


def test_a_new_training_on_a_trained_run_is_refused_with_the_remedies(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    train(run, generation, 0)
    run.detach(generation)
    with pytest.raises(RunConflictError, match=r"load a state.*another run name.*if_exists=\"restart\""):
        attach(run, nonce=1)


def test_one_stored_score_is_training_and_an_empty_epoch_is_not(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    plan_id = plan(run, generation, 0).plan_id
    mark = EpochMark(generation=generation, epoch=0, rank=0, plan_id=plan_id, start_position=0, end_position=0)
    run.end_epoch(mark)
    assert not run.core.state.trained
    push(run, generation, 0, np.array([np.nan]))
    assert not run.core.state.trained
    push(run, generation, 0, np.array([1.0]), sequence=2)
    assert run.core.state.trained


def test_the_same_jobs_next_attempt_may_start_over_and_scores_stay(clock: Clock) -> None:
    run = make_run(clock)
    train(run, attach(run, job="j"), 0)
    generation = attach(run, job="j", attempt=1, nonce=1)
    state = run.core.state
    assert (state.last_epoch, state.start_epoch, state.plan_ids) == (-1, 0, {})
    table = run.core.feed.table
    assert table.num_scored == run.spec.num_samples
    assert not table.stamp.any()
    assert plan(run, generation, 0).pruned > 0


def test_resuming_at_the_start_of_an_epoch_draws_a_new_plan(clock: Clock) -> None:
    run = make_run(clock)
    first = attach(run)
    plans = [train(run, first, epoch) for epoch in range(4)]
    second = attach(run, ResumePoint(epoch=2), nonce=1, takeover=True)
    state = run.core.state
    assert state.last_epoch == 1
    assert sorted(state.plan_ids) == [0, 1]
    assert int(run.core.feed.table.stamp.max()) == 2
    again = plan(run, second, 2)
    assert again.generation == 2
    assert not np.array_equal(again.keep_bits, plans[2].keep_bits)
    assert run.core.state.newest_plan is not None
    assert run.core.state.newest_plan.plan_id == again.plan_id


def test_resuming_inside_an_epoch_keeps_its_plan(clock: Clock) -> None:
    run = make_run(clock)
    first = attach(run)
    plans = [train(run, first, epoch) for epoch in range(4)]
    second = attach(run, ResumePoint(epoch=2, plan_id=plans[2].plan_id), nonce=1, takeover=True)
    assert run.core.state.last_epoch == 2
    assert int(run.core.feed.table.stamp.max()) == 3
    assert plan(run, second, 2) is plans[2]
    assert isinstance(run.plans.get(second, 3), NotReady), "the marks of epoch 2 are of another generation"
    end(run, second, 2, plans[2].plan_id)
    assert plan(run, second, 3).generation == 2


def test_a_missing_plan_is_refused_before_anything_changes(clock: Clock) -> None:
    run = make_run(clock)
    first = attach(run)
    train(run, first, 0)
    train(run, first, 1)
    before = run.core.state
    with pytest.raises(RunNotFoundError, match=r"doesn't keep plan 'gone' of epoch 1 \(it keeps: "):
        attach(run, ResumePoint(epoch=1, plan_id="gone"), nonce=1, takeover=True)
    assert run.core.state == before
    run.heartbeat(first)


def test_a_plan_of_another_epoch_does_not_count(clock: Clock) -> None:
    run = make_run(clock)
    first = attach(run)
    kept = train(run, first, 0)
    train(run, first, 1)
    with pytest.raises(RunNotFoundError, match="of epoch 1"):
        attach(run, ResumePoint(epoch=1, plan_id=kept.plan_id), nonce=1, takeover=True)


def test_resuming_inside_the_unpruned_plan_marks_its_epoch(clock: Clock) -> None:
    run = make_run(clock)
    full = full_plan_id(run.run_id, 5)
    generation = attach(run, ResumePoint(epoch=5, plan_id=full))
    assert plan(run, generation, 5).plan_id == full
    assert isinstance(run.plans.get(generation, 6), NotReady)


def test_a_complete_training_may_resume_after_its_last_epoch(clock: Clock) -> None:
    run = make_run(clock)
    assert attach(run, ResumePoint(epoch=10)) == 1
    with pytest.raises(ConfigError, match=r"run 'test' has only 10 epochs; .*another run name.*if_exists=\"restart\""):
        attach(run, ResumePoint(epoch=11), nonce=1, takeover=True)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_after_any_rewinds_redone_epochs_store_their_scores(starts: list[int]) -> None:
    clock = Clock()
    run = make_run(clock, make_spec(num_samples=50, num_shards=2))
    generation = attach(run)
    for nonce, start in enumerate([0, *starts]):
        if nonce:
            start = min(start, run.core.state.last_epoch + 1)
            generation = attach(run, ResumePoint(epoch=start), nonce=nonce, takeover=True)
        assert int(run.core.feed.table.stamp.max()) <= start
        for epoch in range(start, min(start + 2, 6)):
            got = plan(run, generation, epoch)
            assert got.generation == generation
            values = np.full(50, 100 * nonce + epoch, np.float32)
            push(run, generation, epoch, values)
            np.testing.assert_array_equal(run.core.feed.table.score, values)
            end(run, generation, epoch, got.plan_id)
    assert run.core.feed.stale_scores == 0
