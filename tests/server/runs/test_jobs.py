"""The job that holds a run: attempts, repeats and take-overs through real calls, and two jobs by mistake."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import numpy as np
import pytest

from infobatch_server.server import ScoreServer
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import REFUSED, Caller, attach_request, caller_on, make_spec, status
from tests.server.conftest import Clock
from tests.server.jobs import SAMPLES, Job, everything, scores_of, start_of, superseded

OTHER = b"m" * 16


def test_the_next_attempt_takes_over_at_once_and_may_start_over(caller: Caller, run: bytes) -> None:
    first = Job.attach(caller, run, 2, job="slurm-7")
    first.train(0, scores_of(0))
    second = Job.attach(caller, run, 2, job="slurm-7", attempt=1, nonce=OTHER)
    assert second.generation == 2
    with superseded(by=2):
        caller.stub.Heartbeat(pb.HeartbeatRequest(run_id=run, generation=1))
    plan = second.train(0, scores_of(0, salt=1))
    assert plan.pruned > 0, "the first attempt's scores stay"
    assert second.train(1, scores_of(1, salt=1)).generation == 2


def test_attempts_may_be_skipped(caller: Caller, run: bytes) -> None:
    caller.attach(run, job="slurm-7", attempt=1)
    assert caller.attach(run, job="slurm-7", attempt=2**40, nonce=OTHER) == 2


@pytest.mark.parametrize("attempt", [0, 3])
def test_an_attempt_that_is_not_newer_is_refused_by_name(caller: Caller, run: bytes, attempt: int) -> None:
    caller.attach(run, job="slurm-7", attempt=3, host="node9", pid=1234)
    before = everything(caller, run)
    with status(REFUSED, "is held by job 'slurm-7' attempt 3 on host 'node9', pid 1234", "RunBusyError"):
        caller.attach(run, job="slurm-7", attempt=attempt, nonce=OTHER)
    assert everything(caller, run) == before


def test_jobs_without_a_name_are_strangers(caller: Caller, run: bytes) -> None:
    Job.attach(caller, run).train(0, scores_of(0))
    with status(REFUSED, "is held by another process on host 'node1', pid 41", "RunBusyError"):
        caller.attach(run, attempt=1, nonce=OTHER)
    with status(REFUSED, "load a state to resume the run", "RunConflictError"):
        caller.attach(run, attempt=1, nonce=OTHER, takeover=True)


def test_a_takeover_takes_from_any_job(caller: Caller, run: bytes) -> None:
    caller.attach(run, job="slurm-7", attempt=5)
    assert caller.attach(run, job="slurm-8", nonce=OTHER, takeover=True) == 2
    with superseded(by=2):
        caller.stub.Heartbeat(pb.HeartbeatRequest(run_id=run, generation=1))


def test_the_same_call_again_gets_the_same_answer_and_rewinds_nothing(caller: Caller, run: bytes, clock: Clock) -> None:
    job = Job.attach(caller, run)
    first = caller.stub.AttachRun(attach_request(run))
    job.train(0, scores_of(0))
    clock.now += 31
    before = everything(caller, run)
    assert caller.stub.AttachRun(attach_request(run)) == first
    job.train(1, scores_of(1))
    assert everything(caller, run)[1:] != before[1:]


def test_an_expired_lease_frees_the_run(caller: Caller, run: bytes, clock: Clock) -> None:
    first = Job.attach(caller, run)
    first.train(0, scores_of(0))
    clock.now += 30
    assert caller.stub.GetRun(pb.GetRunRequest(run_id=run)).run.job == ""
    assert caller.attach(run, nonce=OTHER, resume=start_of(1)) == 2
    with superseded(by=2):
        first.push(0, np.arange(3), scores_of(0))


def test_a_job_with_an_expired_lease_continues_if_no_other_attached(caller: Caller, run: bytes, clock: Clock) -> None:
    job = Job.attach(caller, run)
    job.train(0, scores_of(0))
    clock.now += 3600
    job.train(1, scores_of(1))
    with status(REFUSED, "for another 30 s", "RunBusyError"):
        caller.attach(run, nonce=OTHER)


def test_a_second_job_by_mistake_is_refused_and_the_first_loses_nothing(caller: Caller, run: bytes) -> None:
    """Both jobs have the names of plain torchrun. A second run is undisturbed, for comparison."""
    quiet = Job.attach(caller, caller.create(make_spec("quiet")).run_id, 2)
    disturbed = Job.attach(caller, run, 2, host="node1", pid=41)

    def by_mistake() -> None:
        assert not caller.create(make_spec()).created
        for resume in (pb.Resume(new=pb.Resume.New()), start_of(0), start_of(2)):
            with status(REFUSED, "is held by another process on host 'node1', pid 41", "RunBusyError"):
                caller.attach(run, nonce=OTHER, host="node2", pid=42, resume=resume)
        with status(REFUSED, "can't be deleted: another process on host 'node1', pid 41", "RunBusyError"):
            caller.stub.DeleteRun(pb.DeleteRunRequest(run="test"))

    for epoch in range(3):
        plans = [job.plan(epoch) for job in (quiet, disturbed)]
        by_mistake()
        for job, plan in zip((quiet, disturbed), plans, strict=True):
            for rank, share in enumerate(np.array_split(plan.kept_between(0, SAMPLES), 2)):
                assert job.push(epoch, share, scores_of(epoch), rank).accepted == len(share)
                if job is disturbed:
                    by_mistake()
                job.end(epoch, plan.plan_id, rank)
        np.testing.assert_array_equal(*(plan.keep_bits for plan in plans))
    tables = [everything(caller, job.run)[1:2] for job in (quiet, disturbed)]
    assert tables[0] == tables[1]
    plans = [job.plan(3) for job in (quiet, disturbed)]
    assert plans[0].pruned > 0
    np.testing.assert_array_equal(*(plan.keep_bits for plan in plans))


def test_only_one_of_concurrent_jobs_gets_the_run(server: ScoreServer, caller: Caller, run: bytes) -> None:
    together = threading.Barrier(8)
    answers: list[Any] = [None] * 8

    def attach(number: int) -> None:
        channel, job_caller = caller_on(str(server.grpc_address))
        with channel:
            together.wait(10)
            try:
                answers[number] = job_caller.attach(run, nonce=bytes([number]) * 16, pid=number + 1)
            except grpc.RpcError as error:
                answers[number] = error

    threads = [threading.Thread(target=attach, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    refused = [answer for answer in answers if isinstance(answer, grpc.RpcError)]
    winner = next(number for number, answer in enumerate(answers) if answer == 1)
    assert len(refused) == 7
    assert all(f"pid {winner + 1}," in str(error.details()) for error in refused)  # type: ignore[attr-defined]
