"""The gRPC service through a real channel: answers, and a status with a remedy for what can't be done."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from infobatch_server.rpc.call_pool import CallPool
from infobatch_server.rpc.guard import Guard
from infobatch_server.rpc.idle_calls import IdleCalls
from infobatch_server.rpc.methods import Methods
from infobatch_server.rpc.service import ScoreService
from infobatch_server.server import ScoreServer
from infobatch_stream.plan.epoch_plan import full_plan_id
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import (
    CLIENT,
    INVALID,
    NOT_FOUND,
    REFUSED,
    Caller,
    attach_request,
    caller_on,
    end_request,
    make_spec,
    push_request,
    status,
)
from tests.server.conftest import Clock


def test_scores_of_one_epoch_prune_the_next(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run)
    first = caller.plan(run, generation, 0)
    assert (first.kept, first.pruned, first.never_scored) == (1000, 0, 1000)
    scores = np.random.default_rng(0).random(1000).astype(np.float32)
    answer = caller.push_all(run, generation, 0, 1, scores)
    assert (answer.accepted, answer.journal_position, answer.duplicate) == (1000, 1, False)
    assert list(caller.end(run, generation, 0, first.plan_id).missing_ranks) == []
    second = caller.plan(run, generation, 1)
    low = scores < np.float32(second.threshold)
    kept = np.unpackbits(second.keep_bits, bitorder="little", count=1000).astype(bool)
    assert kept[~low].all()
    assert 0 < np.count_nonzero(kept[low]) < np.count_nonzero(low)
    np.testing.assert_array_equal(second.weights(np.flatnonzero(kept)), np.where(low[kept], 2.0, 1.0))
    assert second.journal_position == 1
    assert caller.plan(run, generation, 1).plan_id == second.plan_id


def test_attaching_tells_the_time_outs(caller: Caller, run: bytes) -> None:
    answer = caller.stub.AttachRun(attach_request(run))
    assert (answer.run_id, answer.generation) == (run, 1)
    assert (answer.lease_ms, answer.barrier_timeout_ms) == (30_000, 60_000)
    assert 0 < answer.heartbeat_interval_ms < answer.lease_ms / 2
    assert answer.server_version


def test_a_barrier_answers_at_once(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run, world_size=2)
    caller.plan(run, generation, 0)
    request = pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=1)
    (message,) = caller.stub.GetEpochPlan(request, timeout=5)
    assert list(message.not_ready.missing_ranks) == [0, 1]
    assert message.not_ready.retry_after_ms > 0


def test_a_repeated_push_is_told_so(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run)
    caller.plan(run, generation, 0)
    request = push_request(run, generation, 1, 0, [1, 2, 3], [1.0, np.nan, np.inf])
    first, second = caller.stub.PushScores(request), caller.stub.PushScores(request)
    assert (first.accepted, first.non_finite, first.duplicate) == (1, 2, False)
    assert (second.accepted, second.duplicate, second.journal_position) == (0, True, 1)


def test_marking_detaching_and_heartbeats(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run)
    caller.stub.MarkUnpruned(pb.MarkUnprunedRequest(run_id=run, generation=generation, epoch=0))
    assert caller.plan(run, generation, 0).plan_id == full_plan_id(run, 0)
    assert caller.plan(run, 0, 0, plan_id=full_plan_id(run, 0)).kept == 1000
    caller.stub.Heartbeat(pb.HeartbeatRequest(run_id=run, generation=generation))
    caller.stub.DetachRun(pb.DetachRunRequest(run_id=run, generation=generation))
    assert caller.stub.GetRun(pb.GetRunRequest(run="test")).run.job == ""


def test_every_rank_detaches_for_itself(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run, world_size=2)
    for rank, holder in ((1, "none"), (1, "none"), (0, "")):
        caller.stub.DetachRun(pb.DetachRunRequest(run_id=run, generation=generation, rank=rank))
        assert caller.stub.GetRun(pb.GetRunRequest(run="test")).run.job == holder
    with status(INVALID, "rank 2 is outside the world size 2", "ConfigError"):
        caller.stub.DetachRun(pb.DetachRunRequest(run_id=run, generation=generation, rank=2))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"nonce": b"short"}, "nonce must have 16 bytes; got 5"),
        ({"job": ""}, "job must have 1 to 255 printable characters; got ''"),
        ({"host": "a\nb"}, "printable"),
        ({"world_size": 0}, "world_size=0 is outside"),
        ({"resume": pb.Resume()}, "must say where training begins"),
        ({"resume": pb.Resume(inside=pb.Resume.Inside(epoch=1))}, "needs the plan_id"),
        ({"resume": pb.Resume(start=pb.Resume.Start(epoch=11))}, "has only 10 epochs"),
    ],
)
def test_an_invalid_attach_request(caller: Caller, run: bytes, fields: dict[str, Any], words: str) -> None:
    with status(INVALID, words):
        caller.attach(run, **fields)


def test_a_busy_run_says_when_to_come_again(caller: Caller, run: bytes, clock: Clock) -> None:
    caller.attach(run)
    clock.now += 10
    with pytest.raises(grpc.RpcError) as caught:
        caller.attach(run, nonce=b"m" * 16)
    error: Any = caught.value
    assert error.code() == REFUSED
    assert "on host 'node1', pid 41" in error.details()
    told = dict(error.trailing_metadata())
    assert (told["infobatch-error"], told["infobatch-retry-after-ms"]) == ("RunBusyError", "20000")


def test_a_superseded_generation_is_aborted(caller: Caller, run: bytes) -> None:
    old = caller.attach(run)
    caller.attach(run, nonce=b"m" * 16, takeover=True)
    with status(grpc.StatusCode.ABORTED, "superseded", "SupersededError"):
        caller.stub.PushScores(push_request(run, old, 1, 0, [0], [1.0]))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"indices": b"x" * 7}, "indices has 7 bytes: int64 takes 8 each"),
        ({"scores": b"x" * 7}, "scores has 7 bytes; 2 indices need 8"),
        ({"indices": np.array([0, 1000], "<i8").tobytes()}, "sample index 1000 is outside [0, 1000)"),
        ({"indices": np.array([-1, 3], "<i8").tobytes()}, "sample index -1 is outside [0, 1000)"),
        ({"client_id": b"x"}, "client_id has 1 bytes, not 16"),
        ({"sequence": 0}, "sequence numbers begin at 1"),
        ({"epoch": 10}, "epoch=10 is outside the run's schedule of 10 epochs"),
        ({"columns": [pb.Column(name="x", dtype="uint8", data=b"ab")]}, "columns ['x'] were pushed"),
        ({"run_id": b"x"}, "run_id must have 16 bytes; got 1"),
    ],
)
def test_an_invalid_push(caller: Caller, run: bytes, fields: dict[str, Any], words: str) -> None:
    generation = caller.attach(run)
    caller.plan(run, generation, 0)
    request = push_request(run, generation, 1, 0, [0, 1], [1.0, 2.0])
    for name, value in fields.items():
        if name == "columns":
            request.columns.extend(value)
        else:
            setattr(request, name, value)
    with status(INVALID, words):
        caller.stub.PushScores(request)
    with status(REFUSED, "epoch 1 of run 'test' was not opened: the newest epoch is 0", "RunConflictError"):
        caller.stub.PushScores(push_request(run, generation, 1, 1, [0, 1], [1.0, 2.0]))
    good = push_request(run, generation, 1, 0, [0, 1], [1.0, 2.0])
    assert not caller.stub.PushScores(good).duplicate


def test_what_is_not_there_is_not_found(caller: Caller, run: bytes) -> None:
    with status(NOT_FOUND, "no run with id 78787878", "RunNotFoundError"):
        caller.attach(b"x" * 16)
    with status(NOT_FOUND, "no run 'nobody'"):
        caller.stub.GetRun(pb.GetRunRequest(run="nobody"))
    with status(INVALID, "set either `run` or `run_id`"):
        caller.stub.GetRun(pb.GetRunRequest())
    generation = caller.attach(run)
    with status(NOT_FOUND, "doesn't keep plan 'nothing' of epoch 0", "RunNotFoundError"):
        caller.plan(run, generation, 0, plan_id="nothing")


def test_a_defect_is_internal_and_told_in_the_log_only(
    caller: Caller, server: ScoreServer, run: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(server.registry, "runs", fail)
    with status(grpc.StatusCode.INTERNAL, "its log has the traceback"):
        caller.stub.ListRuns(pb.ListRunsRequest())
    assert "secret" in caplog.text


def test_a_message_over_the_limit_is_refused(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run)
    count = caller.stub.GetServer(pb.GetServerRequest()).max_message_bytes // 12 + 1
    with pytest.raises(grpc.RpcError) as caught:
        caller.stub.PushScores(push_request(run, generation, 1, 0, [0] * count, [0.0] * count))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]


def test_the_server_says_who_it_is(caller: Caller, server: ScoreServer) -> None:
    answer = caller.stub.GetServer(pb.GetServerRequest())
    assert answer.nonce == server.nonce
    assert answer.version == server.version
    assert list(answer.order_versions) == [1]
    assert not answer.durable
    assert answer.max_samples == 2**31


def test_runs_are_listed_by_name_with_their_state(caller: Caller) -> None:
    for name in ("b", "a"):
        caller.create(make_spec(name))
    runs = caller.stub.ListRuns(pb.ListRunsRequest()).runs
    assert [info.run for info in runs] == ["a", "b"]
    assert not runs[0].HasField("newest_plan")
    generation = caller.attach(runs[0].run_id)
    plan = caller.plan(runs[0].run_id, generation, 0)
    caller.stub.PushScores(push_request(runs[0].run_id, generation, 1, 0, [0, 1], [1.0, np.nan], CLIENT))
    caller.stub.EndEpoch(end_request(runs[0].run_id, generation, 0, plan.plan_id))
    info = caller.stub.GetRun(pb.GetRunRequest(run="a")).run
    assert (info.last_epoch, info.trained, info.stored_scores, info.rejected_scores) == (0, True, 1, 1)
    assert (info.job, info.host, info.pid, info.generation) == ("none", "node1", 41, 1)
    assert list(info.plan_ids) == [plan.plan_id] == [info.newest_plan.plan_id]
    assert (info.newest_plan.kept, info.newest_plan.never_scored) == (1000, 1000)


def test_the_service_has_every_method_of_its_contract() -> None:
    methods = [method.name for method in pb.DESCRIPTOR.services_by_name["ScoreService"].methods]
    assert [name for name in methods if name not in vars(ScoreService)] == []


def test_a_method_that_a_servicer_lacks_is_unimplemented_and_the_others_answer() -> None:
    class Half:
        def Check(self, request: Any, context: Any) -> Any:
            return health_pb2.HealthCheckResponse(status="SERVING")

    pool = CallPool("calls", 2, max_waiting=1, patience_s=1.0)
    methods = Methods(IdleCalls(1.0), pool, Guard(None))
    methods.add(health_pb2.DESCRIPTOR.services_by_name["Health"], Half(), pools={}, busy_answers={})
    server = grpc.server(pool, handlers=[methods])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
        with pytest.raises(grpc.RpcError) as caught:
            next(health.Watch(health_pb2.HealthCheckRequest(), timeout=10))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    server.stop(None).wait()


def test_health_and_reflection_answer(server: ScoreServer) -> None:
    channel, _ = caller_on(str(server.grpc_address))
    with channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "infobatch_stream.v1.ScoreService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (listed,) = reflection.ServerReflectionInfo(iter([request]))
        names = [service.name for service in listed.list_services_response.service]
        assert "infobatch_stream.v1.ScoreService" in names


def test_a_port_is_never_shared(server: ScoreServer) -> None:
    from infobatch_stream.errors import ServerError

    with pytest.raises(ServerError, match=r"can't listen on --grpc 127\.0\.0\.1"):
        ScoreServer(server.grpc_address)
