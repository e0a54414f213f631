"""Dropped samples on the server: pushed beside scores, left out of the plans of jobs that ask for it, forgotten."""

from __future__ import annotations

import numpy as np
import pytest

from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import ABORTED, INVALID, NOT_FOUND, REFUSED, Caller, make_spec, push_request, status
from tests.server.jobs import Job

SCORES = np.random.default_rng(1).random(1000).astype(np.float32)
ALL = np.arange(1000)


def drop(job: Job, epoch: int, samples: np.ndarray, rank: int = 0, **scores: list[float]) -> pb.PushScoresResponse:
    """Pushes dropped samples on the next sequence number."""
    job.sent[rank] = job.sent.get(rank, 0) + 1
    client = job.generation.to_bytes(8, "big") + rank.to_bytes(8, "big")
    request = push_request(
        job.run, job.generation, job.sent[rank], epoch, scores.get("indices", []), scores.get("scores", []), client
    )
    request.dropped = np.asarray(samples, "<i8").tobytes()
    return job.caller.stub.PushScores(request, timeout=10)  # type: ignore[no-any-return]


def info(caller: Caller, run: bytes) -> pb.RunInfo:
    return caller.stub.GetRun(pb.GetRunRequest(run_id=run)).run  # type: ignore[no-any-return]


def train_first(job: Job, dropped: np.ndarray) -> None:
    """Epoch 0, of which these samples are dropped and all others scored."""
    plan = job.plan(0)
    job.push(0, np.setdiff1d(ALL, dropped), SCORES)
    drop(job, 0, dropped)
    job.end(0, plan.plan_id)


@pytest.mark.parametrize("remember", [True, False])
def test_a_job_that_remembers_has_plans_without_them_and_another_has_not(
    remember: bool, caller: Caller, run: bytes
) -> None:
    job = Job.attach(caller, run, remember_drops=remember)
    dropped = np.arange(0, 1000, 5)
    train_first(job, dropped)
    plan = job.plan(1)
    assert plan.dropped == (200 if remember else 0)
    assert plan.kept + plan.pruned == (800 if remember else 1000)
    kept = plan.kept_between(0, 1000)
    assert bool(np.isin(kept, dropped).any()) is not remember
    assert info(caller, run).dropped_samples == 200


def test_the_choice_is_the_attached_jobs(caller: Caller, run: bytes) -> None:
    train_first(Job.attach(caller, run, remember_drops=True), np.arange(10))
    start = pb.Resume(start=pb.Resume.Start(epoch=1))
    fills = Job.attach(caller, run, resume=start, takeover=True, nonce=b"2" * 16)
    assert fills.plan(1).dropped == 0
    again = Job.attach(caller, run, resume=start, takeover=True, nonce=b"3" * 16, remember_drops=True)
    assert again.plan(1).dropped == 10, "a rewind keeps them: a filter decides alike"


def test_a_repeated_push_counts_once_and_an_old_generations_not_at_all(caller: Caller, run: bytes) -> None:
    job = Job.attach(caller, run, remember_drops=True)
    job.plan(0)
    drop(job, 0, np.array([4, 4, 9]))
    job.sent[0] -= 1
    assert drop(job, 0, np.array([5])).duplicate
    assert info(caller, run).dropped_samples == 2
    Job.attach(caller, run, takeover=True, nonce=b"2" * 16)
    with status(ABORTED, "superseded"):
        drop(job, 0, np.array([7]))
    assert info(caller, run).dropped_samples == 2


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        (np.array([1000], "<i8").tobytes(), "sample index 1000 is outside [0, 1000)"),
        (np.array([3, -1], "<i8").tobytes(), "sample index -1 is outside [0, 1000)"),
        (b"\0" * 9, "dropped has 9 bytes: int64 takes 8 each"),
        (np.array([3, 950], "<i8").tobytes(), "dropped has sample 950, which is outside the run's mask"),
    ],
)
def test_invalid_ones_change_nothing(packed: bytes, words: str, caller: Caller) -> None:
    run = caller.create(make_spec("masked", subset=np.arange(1000) < 900)).run_id
    job = Job.attach(caller, run)
    job.plan(0)
    request = push_request(run, job.generation, 1, 0, [1], [0.5])
    request.dropped = packed
    with status(INVALID, words):
        caller.stub.PushScores(request, timeout=10)
    assert (info(caller, run).dropped_samples, info(caller, run).stored_scores) == (0, 0)


def test_an_epoch_that_was_not_opened_has_dropped_nothing(caller: Caller, run: bytes) -> None:
    job = Job.attach(caller, run)
    with status(REFUSED, "no epoch has been opened yet"):
        drop(job, 0, np.array([3]))


def test_a_score_takes_its_sample_back(caller: Caller, run: bytes) -> None:
    job = Job.attach(caller, run, remember_drops=True)
    plan = job.plan(0)
    drop(job, 0, np.array([1, 2, 3]), indices=[3], scores=[0.25])
    assert info(caller, run).dropped_samples == 2, "of one push the score counts"
    job.push(0, np.array([2]), SCORES)
    job.end(0, plan.plan_id)
    assert job.plan(1).dropped == 1


def test_unpruned_epochs_leave_them_out_too_and_wait_for_every_rank(caller: Caller) -> None:
    run = caller.create(make_spec("full", policy="full")).run_id
    job = Job.attach(caller, run, world_size=2, remember_drops=True)
    plan = job.plan(0)
    drop(job, 0, np.arange(100), rank=0)
    job.end(0, plan.plan_id, rank=0)
    assert list(job.not_ready(1).missing_ranks) == [1]
    drop(job, 0, np.arange(100, 300), rank=1)
    job.end(0, plan.plan_id, rank=1)
    plan = job.plan(1)
    assert [(row.name, row.size, row.kept) for row in plan.classes] == [("kept", 700, 700), ("dropped", 300, 0)]
    assert plan.unpruned


def test_nothing_left_is_an_error_with_the_remedy(caller: Caller) -> None:
    run = caller.create(make_spec("nothing", subset=np.arange(1000) < 900)).run_id
    job = Job.attach(caller, run, remember_drops=True)
    plan = job.plan(0)
    drop(job, 0, np.arange(900))
    job.end(0, plan.plan_id)
    with status(REFUSED, "the pipeline has dropped all 900 samples of run 'nothing'", "RunConflictError"):
        job.plan(1)
    assert caller.stub.ForgetDrops(pb.ForgetDropsRequest(run="nothing")).forgotten == 900
    assert job.plan(1).kept == 900


def test_forgotten_ones_are_in_the_next_plan(caller: Caller, run: bytes) -> None:
    job = Job.attach(caller, run, remember_drops=True)
    train_first(job, np.arange(40))
    before = job.plan(1)
    assert caller.stub.ForgetDrops(pb.ForgetDropsRequest(run_id=run)).forgotten == 40
    assert caller.stub.ForgetDrops(pb.ForgetDropsRequest(run_id=run)).forgotten == 0
    assert job.plan(1).plan_id == before.plan_id, "a frozen plan stays"
    job.end(1, before.plan_id)
    assert job.plan(2).dropped == 0
    with status(NOT_FOUND, "no run 'nobody'"):
        caller.stub.ForgetDrops(pb.ForgetDropsRequest(run="nobody"))
