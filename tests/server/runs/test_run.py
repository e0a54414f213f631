"""A run's state machine: the calls that it refuses, and changes to the run."""

from __future__ import annotations

import numpy as np
import pytest

from infobatch_server.runs.registry import Registry
from infobatch_server.state.limits import Limits
from infobatch_server.state.run_state import EpochMark
from infobatch_server.store.memory import MemoryStore
from infobatch_stream.errors import ConfigError, RunBusyError, RunConflictError, RunNotFoundError
from infobatch_stream.plan.epoch_plan import full_plan_id
from infobatch_stream.plan.order_params import OrderChoice
from tests.server.bare_runs import attach, end, make_run, plan, push, train
from tests.server.calls import make_spec
from tests.server.conftest import Clock


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


def test_invalid_marks_are_refused(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    first = plan(run, generation, 0)
    with pytest.raises(ConfigError, match="rank 1 is outside the world size 1"):
        end(run, generation, 0, first.plan_id, rank=1)
    with pytest.raises(RunConflictError, match="rank 0 trained plan 'other' in epoch 0; the run's plan is"):
        end(run, generation, 0, "other")
    with pytest.raises(ConfigError, match="plan_id must have 1 to 256 characters; got 0"):
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


def test_a_late_end_of_an_epoch_names_its_dropped_plan(clock: Clock) -> None:
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
    with pytest.raises(RunConflictError, match="the run's plan is 'full:"):
        end(run, generation, 0, "other")


def test_amending_changes_only_the_schedule(clock: Clock) -> None:
    run = make_run(clock)
    spec = run.amend(epochs=20, delta=None, anneal_epoch_check=17)
    assert (spec.schedule.epochs, spec.schedule.anneal_epoch, run.spec.seed) == (20, 17, 7)
    with pytest.raises(ConfigError, match="anneal_epoch=3"):
        run.amend(epochs=20, delta="0.5", anneal_epoch_check=3)
    assert run.amend(epochs=None, delta="0.5", anneal_epoch_check=10).policy.delta == "0.5"


def test_amending_keeps_the_open_epochs(clock: Clock) -> None:
    run = make_run(clock)
    generation = attach(run)
    train(run, generation, 0)
    train(run, generation, 1)
    with pytest.raises(RunConflictError, match="has opened epoch 1, so epochs must be at least 2; got 1"):
        run.amend(epochs=1, delta="1", anneal_epoch_check=1)


def test_a_deleted_run_answers_not_found(clock: Clock) -> None:
    registry = Registry(MemoryStore(), Limits(), clock)
    run, created = registry.create(make_spec(), OrderChoice())
    assert created
    generation = attach(run)
    with pytest.raises(RunBusyError, match="can't be deleted: another process on host 'node1'"):
        registry.delete(run, force=False)
    registry.delete(run, force=True)
    with pytest.raises(RunNotFoundError, match="was deleted"):
        run.heartbeat(generation)
    assert registry.create(make_spec(), OrderChoice())[0].run_id != run.run_id
