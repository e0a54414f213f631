"""Runs restored from an older checkpoint: the new generation's state, and the older generation's calls."""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc
import numpy as np
import pytest

from infobatch_server.server import ScoreServer
from infobatch_stream.plan.epoch_plan import EpochPlan, full_plan_id
from infobatch_stream.planner import draw_plan
from infobatch_stream.scores.table import ScoreTable
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import ABORTED, NOT_FOUND, Caller, caller_on, end_request, make_spec, push_request, status
from tests.server.jobs import SAMPLES, Job, everything, inside, scores_of, start_of, superseded, table_of

SPEC = make_spec(epochs=14)
BACK = b"b" * 16


@pytest.fixture
def run(caller: Caller) -> bytes:
    return bytes(caller.create(SPEC).run_id)


def at_epoch_8(caller: Caller, run: bytes) -> tuple[Job, list[EpochPlan]]:
    """A job of three ranks that has trained epochs 0 to 8."""
    job = Job.attach(caller, run, world_size=3)
    return job, [job.train(epoch, scores_of(epoch)) for epoch in range(9)]


def restored(caller: Caller, run: bytes, resume: pb.Resume, world_size: int = 2) -> Job:
    """The same run restored from an older checkpoint, on another number of ranks."""
    return Job.attach(caller, run, world_size, nonce=BACK, takeover=True, resume=resume)


def test_repeated_epochs_store_their_scores_over_later_ones(caller: Caller, run: bytes) -> None:
    at_epoch_8(caller, run)
    assert table_of(caller, run)[1].max() == 9
    second = restored(caller, run, start_of(5))
    scores, stamps = table_of(caller, run)
    assert stamps.max() == 5, "as if epochs 5 to 8 had not been"
    assert not np.isnan(scores).any(), "what was learnt of the samples stays"
    for epoch in range(5, 9):
        plan = second.train(epoch, scores_of(epoch, salt=1))
        kept = plan.kept_between(0, SAMPLES)
        scores, stamps = table_of(caller, run)
        np.testing.assert_array_equal(scores[kept], scores_of(epoch, salt=1)[kept])
        assert set(stamps[kept].tolist()) == {epoch + 1}


def test_scores_of_the_rest_of_an_epoch_are_stored(caller: Caller, run: bytes) -> None:
    _, plans = at_epoch_8(caller, run)
    second = restored(caller, run, inside(5, plans[5].plan_id))
    assert table_of(caller, run)[1].max() == 6
    assert second.plan(5).plan_id == plans[5].plan_id
    left = plans[5].kept_between(0, SAMPLES)[300:]
    assert second.push(5, left, scores_of(5, salt=1)).stale == 0
    np.testing.assert_array_equal(table_of(caller, run)[0][left], scores_of(5, salt=1)[left])
    for rank in range(2):
        second.end(5, plans[5].plan_id, rank)
    again = second.train(6, scores_of(6, salt=1))
    assert again.generation == 2


@pytest.mark.parametrize("within", [False, True])
def test_marks_of_the_older_generation_do_not_count(caller: Caller, run: bytes, within: bool) -> None:
    _, plans = at_epoch_8(caller, run)
    second = restored(caller, run, inside(5, plans[5].plan_id) if within else start_of(5))
    plan = second.plan(5)
    assert list(second.not_ready(6).missing_ranks) == [0, 1], "epoch 5 had been ended by three ranks"
    assert second.end(5, plan.plan_id, rank=1) == [0]
    assert list(second.not_ready(6).missing_ranks) == [0]
    assert second.end(5, plan.plan_id, rank=0) == []
    assert second.plan(6).generation == 2


def test_a_redrawn_plan_uses_new_uniforms(caller: Caller, run: bytes) -> None:
    first, plans = at_epoch_8(caller, run)
    second = restored(caller, run, start_of(9))
    scores, stamps = table_of(caller, run)
    table = ScoreTable(SAMPLES)
    table.import_scores(0, scores, stamps)
    redrawn = second.plan(9)
    by_generation = {
        generation: draw_plan(SPEC, table, run_id=run, generation=generation, epoch=9).keep_bits
        for generation in (first.generation, second.generation)
    }
    np.testing.assert_array_equal(redrawn.keep_bits, by_generation[2])
    assert not np.array_equal(redrawn.keep_bits, by_generation[1]), "the same scores, other uniforms"
    assert restored(caller, run, start_of(5)).generation == 2, "the same call again"
    assert redrawn.plan_id not in {plan.plan_id for plan in plans}


def old_calls(run: bytes, generation: int, plan_id: str) -> list[Callable[[Caller], object]]:
    """Everything that a job sends while it trains epoch 8."""
    of = {"run_id": run, "generation": generation}
    return [
        lambda caller: caller.stub.PushScores(push_request(run, generation, 99, 5, range(9), [7.0] * 9)),
        lambda caller: caller.stub.EndEpoch(end_request(run, generation, 5, plan_id)),
        lambda caller: caller.stub.EndEpoch(end_request(run, generation, 5, full_plan_id(run, 5))),
        lambda caller: caller.stub.Heartbeat(pb.HeartbeatRequest(**of)),
        lambda caller: list(caller.stub.GetEpochPlan(pb.GetEpochPlanRequest(**of, epoch=5))),
        lambda caller: list(caller.stub.GetEpochPlan(pb.GetEpochPlanRequest(**of, epoch=9))),
        lambda caller: list(caller.stub.GetEpochPlan(pb.GetEpochPlanRequest(**of, epoch=5, plan_id=plan_id))),
        lambda caller: caller.stub.MarkUnpruned(pb.MarkUnprunedRequest(**of, epoch=5)),
        lambda caller: caller.stub.DetachRun(pb.DetachRunRequest(**of)),
    ]


@pytest.mark.parametrize("within", [False, True])
def test_calls_of_the_older_generation_change_nothing_and_fail(caller: Caller, run: bytes, within: bool) -> None:
    first, plans = at_epoch_8(caller, run)
    second = restored(caller, run, inside(5, plans[5].plan_id) if within else start_of(5))
    plan = second.plan(5)
    second.push(5, plan.kept_between(0, 100), scores_of(5, salt=1))
    before = everything(caller, run)
    for call in old_calls(run, first.generation, plan.plan_id):
        with superseded(by=2):
            call(caller)
        assert everything(caller, run) == before
    assert list(second.not_ready(6).missing_ranks) == [0, 1]


def test_a_repeat_of_an_old_push_is_superseded_and_not_a_duplicate(caller: Caller, run: bytes) -> None:
    first, _ = at_epoch_8(caller, run)
    repeat = push_request(run, 1, first.sent[0], 8, [0], [1.0], (1).to_bytes(8, "big") + bytes(8))
    assert caller.stub.PushScores(repeat).duplicate
    restored(caller, run, start_of(5))
    with superseded(by=2):
        caller.stub.PushScores(repeat)


def test_a_plan_that_a_rewind_dropped_is_gone(caller: Caller, run: bytes) -> None:
    _, plans = at_epoch_8(caller, run)
    restored(caller, run, inside(5, plans[5].plan_id))
    before = everything(caller, run)
    for epoch in (6, 8):
        with status(NOT_FOUND, f"doesn't keep plan '{plans[epoch].plan_id}'", "RunNotFoundError"):
            caller.attach(run, nonce=b"c" * 16, takeover=True, resume=inside(epoch, plans[epoch].plan_id))
    assert everything(caller, run) == before


def test_a_run_may_be_rewound_repeatedly(caller: Caller, run: bytes) -> None:
    _, plans = at_epoch_8(caller, run)
    plan_ids = {plan.plan_id for plan in plans}
    for number, (epoch, world_size) in enumerate([(5, 1), (5, 4), (2, 2), (3, 1)], start=2):
        job = Job.attach(
            caller, run, world_size, nonce=number.to_bytes(16, "big"), takeover=True, resume=start_of(epoch)
        )
        assert job.generation == number
        for at in (epoch, epoch + 1):
            plan = job.train(at, scores_of(at, salt=number))
            assert plan.generation == number
            assert plan.plan_id not in plan_ids
            plan_ids.add(plan.plan_id)


def test_no_push_of_the_older_generation_is_stored_after_the_newer_one_has_its_answer(
    server: ScoreServer, caller: Caller, run: bytes
) -> None:
    """All active pushers are cut off at the same moment, before AttachRun answers."""
    job = Job.attach(caller, run, world_size=4)
    job.plan(0)
    pushing, codes = threading.Barrier(5), []

    def push_until_refused(rank: int) -> None:
        channel, pusher_caller = caller_on(str(server.grpc_address))
        with channel:
            pusher = Job(pusher_caller, run, 4, job.generation)
            for sent in range(100_000):
                if sent == 5:
                    pushing.wait(30)
                try:
                    pusher.push(0, np.arange(rank, SAMPLES, 4), scores_of(0, salt=sent), rank)
                except grpc.RpcError as error:
                    codes.append(error.code())  # type: ignore[attr-defined]
                    return

    pushers = [threading.Thread(target=push_until_refused, args=(rank,)) for rank in range(4)]
    for pusher in pushers:
        pusher.start()
    pushing.wait(30)
    restored(caller, run, start_of(0))
    before = everything(caller, run)
    for pusher in pushers:
        pusher.join(30)
    assert codes == [ABORTED] * 4
    assert everything(caller, run) == before
