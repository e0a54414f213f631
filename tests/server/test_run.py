"""A run's state machine, with a clock that only the tests move."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_server.attach import AttachRequest
from infobatch_server.barrier import NotReady
from infobatch_server.limits import Limits
from infobatch_server.memory_store import MemoryStore
from infobatch_server.registry import Registry
from infobatch_server.run import Run
from infobatch_server.run_info import snapshot
from infobatch_server.run_state import EpochMark, Lease, ResumePoint, RowCounts
from infobatch_server.score_batch import ScoreBatch
from infobatch_stream.errors import ConfigError, RunBusyError, RunConflictError, RunNotFoundError, SupersededError
from infobatch_stream.order_params import OrderChoice
from infobatch_stream.plan import EpochPlan, full_plan_id
from infobatch_stream.run_spec import RunSpec
from tests.server.calls import make_spec
from tests.server.conftest import Clock

NEW = ResumePoint(new=True)


def make_run(clock: Clock, spec: RunSpec | None = None, limits: Limits | None = None) -> Run:
    return Registry(MemoryStore(), limits or Limits(), clock).create(spec or make_spec(), OrderChoice())[0]


def attach(
    run: Run,
    resume: ResumePoint = NEW,
    *,
    job: str = "none",
    attempt: int = 0,
    nonce: int = 0,
    world_size: int = 1,
    takeover: bool = False,
) -> int:
    lease = Lease(
        job=job, attempt=attempt, nonce=nonce.to_bytes(16, "big"), host="node1", pid=41, world_size=world_size
    )
    return run.attach(AttachRequest(lease=lease, resume=resume, takeover=takeover))


def plan(run: Run, generation: int, epoch: int) -> EpochPlan:
    got = run.plans.get(generation, epoch)
    assert isinstance(got, EpochPlan), got
    return got


def push(run: Run, generation: int, epoch: int, scores: np.ndarray, sequence: int = 1) -> None:
    indices = np.arange(len(scores))
    client = generation.to_bytes(8, "big") + epoch.to_bytes(8, "big")
    run.push(ScoreBatch(generation, client, sequence, epoch, indices, scores.astype(np.float32)))


def end(run: Run, generation: int, epoch: int, plan_id: str, rank: int = 0) -> tuple[int, ...]:
    mark = EpochMark(generation=generation, epoch=epoch, rank=rank, plan_id=plan_id, start_position=0, end_position=10)
    return run.end_epoch(mark)


def train(run: Run, generation: int, epoch: int, seed: int = 0) -> EpochPlan:
    """One epoch of a job with one rank."""
    got = plan(run, generation, epoch)
    push(run, generation, epoch, np.random.default_rng([seed, epoch]).random(run.spec.num_samples))
    assert end(run, generation, epoch, got.plan_id) == ()
    return got


# Who may attach.


def test_the_same_call_gets_the_same_generation(clock: Clock) -> None:
    run = make_run(clock)
    assert attach(run) == attach(run) == 1


def test_another_job_is_refused_while_the_lease_holds(clock: Clock) -> None:
    run = make_run(clock)
    attach(run)
    clock.now += 29
    held = "held by job 'none' attempt 0 on host 'node1', pid 41, for another 1 s.*; end that job and wait"
    with pytest.raises(RunBusyError, match=held):
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


def test_takeover_needs_no_waiting(clock: Clock) -> None:
    run = make_run(clock)
    attach(run)
    assert attach(run, nonce=1, takeover=True) == 2


def test_a_jobs_next_attempt_needs_no_waiting(clock: Clock) -> None:
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
        with pytest.raises(SupersededError, match="superseded: generation 1 of run 'test' was followed by 2"):
            call()


@pytest.mark.parametrize("generation", [0, 2])
def test_a_generation_that_never_was_is_told_to_attach(clock: Clock, generation: int) -> None:
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


def test_the_same_jobs_next_attempt_may_begin_anew_and_scores_stay(clock: Clock) -> None:
    run = make_run(clock)
    train(run, attach(run, job="j"), 0)
    generation = attach(run, job="j", attempt=1, nonce=1)
    state = run.core.state
    assert (state.last_epoch, state.start_epoch, state.plan_ids) == (-1, 0, {})
    table = run.core.feed.table
    assert table.num_scored == run.spec.num_samples
    assert not table.stamp.any()
    assert plan(run, generation, 0).pruned > 0


# Resuming.


def test_resuming_at_the_start_of_an_epoch_draws_it_anew(clock: Clock) -> None:
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
    with pytest.raises(RunNotFoundError, match=r"keeps no plan 'gone' of epoch 1 \(kept: "):
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


def test_a_training_that_is_over_may_resume_after_its_last_epoch(clock: Clock) -> None:
    run = make_run(clock)
    assert attach(run, ResumePoint(epoch=10)) == 1
    with pytest.raises(ConfigError, match=r"run 'test' has 10 epochs; .*another run name.*if_exists=\"restart\""):
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


# The barrier.


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


# Plans.


def test_a_plan_is_drawn_once(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    first = plan(run, generation, 0)
    push(run, generation, 0, np.arange(1000.0))
    assert plan(run, generation, 0) is first


def test_epochs_open_one_after_the_other(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    with pytest.raises(RunConflictError, match="epoch 1 of run 'test' can't be opened: the newest epoch is -1"):
        run.plans.get(generation, 1)
    with pytest.raises(ConfigError, match="epoch 10 is outside the 10 epochs"):
        run.plans.get(generation, 10)


def test_old_plans_are_dropped_and_said_so(clock: Clock) -> None:
    run = make_run(clock, limits=Limits(keep_plans=2))
    generation = attach(run)
    plans = [train(run, generation, epoch) for epoch in range(4)]
    assert sorted(run.core.state.plan_ids) == [2, 3]
    assert run.plans.named(plans[3].plan_id) is plans[3]
    with pytest.raises(RunNotFoundError, match="no longer keeps a plan of epoch 1"):
        run.plans.get(generation, 1)
    with pytest.raises(RunNotFoundError, match="keeps no plan"):
        run.plans.named(plans[1].plan_id)


def test_a_mark_wins_over_a_frozen_plan(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    frozen = plan(run, generation, 0)
    run.plans.mark_unpruned(generation, 0)
    run.plans.mark_unpruned(generation, 0)
    full = plan(run, generation, 0)
    assert full.plan_id == full_plan_id(run.run_id, 0)
    assert full.kept == 1000
    assert run.plans.named(frozen.plan_id) is frozen
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
    from infobatch_server import run_plans

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


def test_a_draw_that_fails_lets_go_of_the_table(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    from infobatch_server import run_plans

    run = make_run(clock)
    generation = attach(run)

    def fail(*args: object, **fields: object) -> EpochPlan:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(run_plans, "draw_plan", fail)
        with pytest.raises(MemoryError):
            run.plans.get(generation, 0)
    assert plan(run, generation, 0).kept == 1000


# What a run has saved.


def ended(run: Run, generation: int, epoch: int, rank: int, start: int, stop: int, real: int) -> None:
    mark = EpochMark(
        generation=generation,
        epoch=epoch,
        rank=rank,
        plan_id=plan(run, generation, epoch).plan_id,
        start_position=start,
        end_position=stop,
        counts=RowCounts(real=real),
    )
    run.end_epoch(mark)


def test_an_epoch_counts_once_every_rank_has_ended_it(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run, world_size=2)
    ended(run, generation, 0, 0, 0, 1000, 500)
    assert run.core.state.ended == {}
    ended(run, generation, 0, 1, 0, 1000, 480)
    ended(run, generation, 0, 1, 0, 1000, 490)
    assert run.core.state.ended == {0: 990}
    savings = snapshot(run).savings
    assert (savings.trained, savings.full, savings.saved, savings.share) == (990, 1000, 10, 0.01)


def test_what_was_trained_before_a_resumption_inside_an_epoch_counts(clock: Clock) -> None:
    run = make_run(clock)
    kept = plan(run, attach(run), 0)
    generation = attach(run, ResumePoint(epoch=0, plan_id=kept.plan_id), nonce=1, takeover=True)
    ended(run, generation, 0, 0, 300, 1000, 700)
    assert run.core.state.ended == {0: 1000}


def test_a_rewind_drops_savings_and_history(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    plans = [train(run, generation, epoch) for epoch in range(3)]
    attach(run, ResumePoint(epoch=1, plan_id=plans[1].plan_id), nonce=1, takeover=True)
    assert sorted(run.core.state.ended) == [0]
    assert [epoch for epoch, _ in snapshot(run).history] == [0, 1]
    attach(run, ResumePoint(epoch=1), nonce=2, takeover=True)
    assert [epoch for epoch, _ in snapshot(run).history] == [0]


def test_an_epoch_that_is_trained_unpruned_is_so_in_the_history(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    train(run, generation, 0)
    assert plan(run, generation, 1).pruned > 0
    run.plans.mark_unpruned(generation, 1)
    (_, first), (_, second) = snapshot(run).history
    assert (first.kept, first.unpruned) == (1000, False)
    assert (second.kept, second.pruned, second.unpruned) == (1000, 0, True)


# What can't be meant, amending, deleting.


def test_scores_of_an_epoch_that_was_not_opened_are_refused(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    with pytest.raises(RunConflictError, match="epoch 0 of run 'test' was not opened: no epoch has been opened yet"):
        push(run, generation, 0, np.ones(3))
    first = plan(run, generation, 0)
    with pytest.raises(RunConflictError, match="epoch 3 of run 'test' was not opened: the newest epoch is 0"):
        push(run, generation, 3, np.ones(1000))
    push(run, generation, 0, np.ones(1000))
    assert run.core.feed.stale_scores == 0
    end(run, generation, 0, first.plan_id)
    with pytest.raises(RunConflictError, match="was not opened"):
        push(run, generation, 1, np.ones(1000))


def test_scores_after_an_outage_follow_the_mark_of_their_epoch(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    for epoch in range(3):
        run.plans.mark_unpruned(generation, epoch)
        push(run, generation, epoch, np.full(1000, epoch))
        end(run, generation, epoch, full_plan_id(run.run_id, epoch))
    assert run.core.feed.stale_scores == 0
    assert int(run.core.feed.table.stamp.min()) == 3


def test_marks_that_cannot_be_meant(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    first = plan(run, generation, 0)
    with pytest.raises(ConfigError, match="rank 1 is outside the world of 1"):
        end(run, generation, 0, first.plan_id, rank=1)
    with pytest.raises(RunConflictError, match="rank 0 trained plan 'other' in epoch 0; the run's is"):
        end(run, generation, 0, "other")
    with pytest.raises(ConfigError, match="the plan that was trained must be named"):
        end(run, generation, 0, "")
    with pytest.raises(ConfigError, match=r"positions \[5, 4\) are outside"):
        run.end_epoch(EpochMark(generation=generation, epoch=0, rank=0, plan_id="p", start_position=5, end_position=4))


@pytest.mark.parametrize(("epoch", "plan_id"), [(1, "anything"), (2, "full:{run}:2"), (1, "{run}-1-1-abcd")])
def test_the_end_of_an_epoch_that_was_not_opened_is_refused(clock: Clock, epoch: int, plan_id: str) -> None:
    run = make_run(clock)
    generation = attach(run)
    first = plan(run, generation, 0)
    with pytest.raises(RunConflictError, match=f"epoch {epoch} of run 'test' was not opened: the newest epoch is 0"):
        end(run, generation, epoch, plan_id.format(run=run.run_id.hex()))
    assert run.core.state.last_epoch == 0
    end(run, generation, 0, first.plan_id)
    assert plan(run, generation, 1).epoch == 1


def test_unpruned_epochs_follow_one_another(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    plan(run, generation, 0)
    with pytest.raises(RunConflictError, match="epoch 2 of run 'test' was not opened: the newest epoch is 0"):
        run.plans.mark_unpruned(generation, 2)
    run.plans.mark_unpruned(generation, 1)
    run.plans.mark_unpruned(generation, 2)
    assert run.core.state.last_epoch == 2


def test_the_late_end_of_an_epoch_whose_plan_is_gone_names_a_plan_of_that_epoch(clock: Clock) -> None:
    run = make_run(clock, limits=Limits(keep_plans=2))
    generation = attach(run)
    plans = [train(run, generation, epoch) for epoch in range(4)]
    assert end(run, generation, 0, plans[0].plan_id) == ()
    for other in ("other", plans[1].plan_id, plans[0].plan_id.replace(run.run_id.hex(), 32 * "0")):
        with pytest.raises(RunConflictError, match=f"plan '{other}' in epoch 0; the run never had such a plan"):
            end(run, generation, 0, other)


def test_the_end_of_an_unpruned_epoch_names_the_unpruned_plan(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    run.plans.mark_unpruned(generation, 0)
    with pytest.raises(RunConflictError, match="the run's is 'full:"):
        end(run, generation, 0, "other")


def test_amending_changes_the_schedule_alone(clock: Clock) -> None:
    run = make_run(clock)
    spec = run.amend(epochs=20, delta=None, anneal_epoch_check=17)
    assert (spec.schedule.epochs, spec.schedule.anneal_epoch, run.spec.seed) == (20, 17, 7)
    with pytest.raises(ConfigError, match="anneal_epoch=3"):
        run.amend(epochs=20, delta="0.5", anneal_epoch_check=3)
    assert run.amend(epochs=None, delta="0.5", anneal_epoch_check=10).schedule.delta == "0.5"


def test_amending_keeps_what_was_opened(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    train(run, generation, 0)
    train(run, generation, 1)
    with pytest.raises(RunConflictError, match="has opened epoch 1: epochs=1 is too few, 2 is the least"):
        run.amend(epochs=1, delta="1", anneal_epoch_check=1)


def test_a_deleted_run_answers_not_found(clock: Clock) -> None:
    registry = Registry(MemoryStore(), Limits(), clock)
    run, created = registry.create(make_spec(), OrderChoice())
    assert created
    generation = attach(run)
    with pytest.raises(RunBusyError, match="can't be deleted: job 'none' on host 'node1'"):
        registry.delete(run, force=False)
    registry.delete(run, force=True)
    with pytest.raises(RunNotFoundError, match="was deleted"):
        run.heartbeat(generation)
    assert registry.create(make_spec(), OrderChoice())[0].run_id != run.run_id
