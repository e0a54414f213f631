"""Which calls a token allows, on a real server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from infobatch_server.access.access import Access
from infobatch_server.access.tokens import Tokens
from infobatch_server.server import ScoreServer
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1 import score_service_pb2_grpc as pb_grpc
from tests.server.calls import Caller, make_spec, plan_of, status
from tests.server.conftest import Clock

SERVICE = pb.DESCRIPTOR.services_by_name["ScoreService"]
READING = {"GetServer", "GetRun", "ListRuns", "ReadScores", "GetEpochPlan"}
TRAIN, READ = "train-" + "t" * 30, "read-" + "r" * 30
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
def server(tmp_path: Path, clock: Clock) -> Iterator[ScoreServer]:
    path = tmp_path / "tokens"
    path.write_text(f"job train {TRAIN}\nboard read {READ}\n")
    path.chmod(0o600)
    with ScoreServer(access=Access(tokens=Tokens(path)), clock=clock) as server:
        yield server


@pytest.fixture
def channel(server: ScoreServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(str(server.grpc_address), [("grpc.enable_http_proxy", 0)]) as channel:
        yield channel


class _WithToken(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor
):
    """Adds a token to each call."""

    def __init__(self, token: str) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),)

    def _go_on(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=self._metadata), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = _go_on


def caller_with(token: str, channel: grpc.Channel) -> Caller:
    return Caller(pb_grpc.ScoreServiceStub(grpc.intercept_channel(channel, _WithToken(token))))


def call(channel: grpc.Channel, method: str, *headers: str) -> None:
    """Calls with an empty message and these `authorization` headers; reads the first answer."""
    metadata = [("authorization", header) for header in headers]
    path = f"/{SERVICE.full_name}/{method}"
    next(channel.stream_stream(path)(iter([b""]), metadata=metadata, timeout=10), None)


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
def test_every_call_needs_a_token(channel: grpc.Channel, method: str) -> None:
    with status(UNAUTHENTICATED, f"{method}: no token; this server needs", "UnauthenticatedError"):
        call(channel, method)


@pytest.mark.parametrize("header", ["Bearer wrong", f"Bearer {TRAIN[:-1]}", f"Basic {TRAIN}", TRAIN])
def test_a_wrong_token_is_as_good_as_none(channel: grpc.Channel, header: str) -> None:
    with status(UNAUTHENTICATED, "GetServer: no token, or none of this server's", "UnauthenticatedError"):
        call(channel, "GetServer", header)


def test_two_tokens_are_none(channel: grpc.Channel) -> None:
    with status(UNAUTHENTICATED, "GetServer: no token"):
        call(channel, "GetServer", f"Bearer {TRAIN}", f"Bearer {READ}")


@pytest.mark.parametrize("method", sorted({method.name for method in SERVICE.methods} - READING))
def test_a_read_token_changes_nothing(channel: grpc.Channel, method: str) -> None:
    with status(DENIED, f"{method} needs a token with scope train", "PermissionDeniedError"):
        call(channel, method, f"Bearer {READ}")


def test_a_read_token_reads(channel: grpc.Channel, server: ScoreServer) -> None:
    trainer, reader = caller_with(TRAIN, channel), caller_with(READ, channel)
    run = trainer.create(make_spec()).run_id
    assert reader.stub.GetServer(pb.GetServerRequest(), timeout=10).nonce == server.nonce
    assert reader.stub.GetRun(pb.GetRunRequest(run="test"), timeout=10).run.run_id == run
    assert [info.run_id for info in reader.stub.ListRuns(pb.ListRunsRequest(), timeout=10).runs] == [run]
    parts = list(reader.stub.ReadScores(pb.ReadScoresRequest(run="test"), timeout=10))
    assert sum(len(part.scores) for part in parts) == 4 * 1000


def test_a_read_token_gets_a_plan_by_id_and_opens_none(channel: grpc.Channel, clock: Clock) -> None:
    trainer, reader = caller_with(TRAIN, channel), caller_with(READ, channel)
    run = trainer.create(make_spec()).run_id
    generation = trainer.attach(run)
    with status(DENIED, "opens the epoch", "PermissionDeniedError"):
        reader.plan(run, generation, 0)
    assert reader.stub.GetRun(pb.GetRunRequest(run="test"), timeout=10).run.last_epoch == -1
    plan = trainer.plan(run, generation, 0)
    request = pb.GetEpochPlanRequest(run_id=run, epoch=0, plan_id=plan.plan_id)
    assert plan_of(reader.stub.GetEpochPlan(request, timeout=10)).plan_id == plan.plan_id
    with status(grpc.StatusCode.NOT_FOUND, "doesn't keep plan"):
        reader.plan(run, 0, 1, plan_id=plan.plan_id)


def test_reading_a_plan_does_not_renew_the_lease_of_a_job(channel: grpc.Channel, clock: Clock) -> None:
    trainer, reader = caller_with(TRAIN, channel), caller_with(READ, channel)
    run = trainer.create(make_spec()).run_id
    generation = trainer.attach(run)
    plan = trainer.plan(run, generation, 0)
    clock.now += 29
    assert reader.plan(run, generation, 0, plan_id=plan.plan_id).plan_id == plan.plan_id
    clock.now += 2
    # Free, as the job that holds it has not called for 31 s.
    trainer.attach(run, nonce=b"m" * 16, resume=pb.Resume(start=pb.Resume.Start(epoch=0)))


def test_health_needs_no_token_and_reflection_does(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    with status(UNAUTHENTICATED, "ServerReflectionInfo: no token"):
        next(reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")])))


def test_a_token_that_is_taken_away_is_refused_on_an_open_connection(
    channel: grpc.Channel, server: ScoreServer, tmp_path: Path
) -> None:
    trainer = caller_with(TRAIN, channel)
    trainer.create(make_spec())
    new = tmp_path / "new"
    new.write_text(f"board read {READ}\n")
    new.chmod(0o600)
    new.replace(tmp_path / "tokens")
    with status(UNAUTHENTICATED, "none of this server's"):
        trainer.create(make_spec())


def test_no_token_is_logged(channel: grpc.Channel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "wrong-" + "w" * 30
    for token in (wrong, READ):
        with pytest.raises(grpc.RpcError) as caught:
            caller_with(token, channel).create(make_spec())
        assert token not in str(caught.value)
    assert "refused a call: CreateRun needs a token with scope train" in caplog.text
    assert not [token for token in (wrong, READ, TRAIN) if token in caplog.text]
