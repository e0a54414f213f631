"""What a run shows of itself: what it has saved, and its history."""

from __future__ import annotations

from infobatch_server.runs.run import Run
from infobatch_server.runs.snapshot import snapshot
from infobatch_server.state.run_state import EpochMark, ResumePoint
from infobatch_stream.row_counts import RowCounts
from tests.server.bare_runs import attach, make_run, plan, train
from tests.server.conftest import Clock


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
