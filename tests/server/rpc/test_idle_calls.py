"""Clients that neither send nor read keep no thread from scores, heartbeats and each other."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from infobatch_server.server import ScoreServer
from infobatch_server.state.limits import Limits
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1 import score_service_pb2_grpc as pb_grpc
from tests.server.calls import Caller, caller_on, create_messages, make_spec, push_request

LARGE = 2**22  # an unread stream of so many scores doesn't fit into flow control's windows
BUSY = grpc.StatusCode.RESOURCE_EXHAUSTED


@contextmanager
def serving(**limits: Any) -> Iterator[tuple[Caller, grpc.Channel, Callable[[int], None]]]:
    """A server with few threads: a caller, the channel of somebody who keeps calls open, and a wait for calls there."""
    with ScoreServer(limits=Limits(worker_threads=2, **limits)) as server:
        channel, caller = caller_on(str(server.grpc_address))
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]

        def wait_for(calls: int) -> None:
            deadline_s = time.monotonic() + 10
            while server._grpc.num_calls < calls:
                assert time.monotonic() < deadline_s
                time.sleep(0.01)

        with channel, grpc.insecure_channel(str(server.grpc_address), options) as idle:
            yield caller, idle, wait_for


def never() -> Iterator[Any]:
    yield queue.Queue[Any]().get()


def reading(channel: grpc.Channel) -> Any:
    call = pb_grpc.ScoreServiceStub(channel).ReadScores(pb.ReadScoresRequest(run="large"))
    next(call)
    return call


def without_message(channel: grpc.Channel) -> Any:
    return channel.stream_stream("/infobatch_stream.v1.ScoreService/Heartbeat")(never())


KINDS: dict[str, Callable[[grpc.Channel], Any]] = {
    "CreateRun": lambda channel: pb_grpc.ScoreServiceStub(channel).CreateRun.future(never()),
    "SeedRun": lambda channel: pb_grpc.ScoreServiceStub(channel).SeedRun.future(never()),
    "reflection": lambda channel: reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(never()),
    "Watch": lambda channel: health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()),
    "ReadScores": reading,
    "a heartbeat without its message": without_message,
}


@pytest.mark.parametrize("kind", KINDS)
def test_idle_calls_of_a_kind_leave_threads_for_scores(kind: str) -> None:
    with serving(stream_threads=2) as (caller, idle, wait_for):
        caller.create(make_spec("large", num_samples=LARGE))
        run = caller.create(make_spec()).run_id
        generation = caller.attach(run)
        caller.plan(run, generation, 0)
        held = [KINDS[kind](idle) for _ in range(2)]
        wait_for(2)
        for sequence in range(1, 4):
            assert caller.stub.PushScores(push_request(run, generation, sequence, 0, [1], [1.0]), timeout=5).accepted
            caller.stub.Heartbeat(pb.HeartbeatRequest(run_id=run, generation=generation), timeout=5)
        for call in held:
            call.cancel()


def test_idle_streams_give_way_to_a_call_of_their_kind() -> None:
    with serving(stream_threads=1) as (caller, idle, wait_for):
        held = KINDS["CreateRun"](idle)
        wait_for(1)
        assert caller.create(make_spec()).created  # within its deadline of 10 s
        held.cancel()


def first_then_silent(channel: grpc.Channel) -> Any:
    """Sends a spec that announces two shards, and never their sizes."""

    def messages() -> Iterator[Any]:
        yield create_messages(make_spec("never"))[0]
        yield from never()

    return pb_grpc.ScoreServiceStub(channel).CreateRun.future(messages())


def trickling(channel: grpc.Channel) -> Any:
    """Sends one shard's size after another, each sooner than any patience ends."""
    spec = make_spec("slow", num_samples=10_000, num_shards=10_000)

    def messages() -> Iterator[Any]:
        yield create_messages(spec)[0]
        for shard in range(10_000):
            yield pb.CreateRunRequest(shard_sizes=pb.ShardSizes(first_shard=shard, sizes=(1).to_bytes(8, "little")))
            time.sleep(0.05)

    return pb_grpc.ScoreServiceStub(channel).CreateRun.future(messages())


def create_within(caller: Caller, seconds: float) -> bytes:
    """Creates a run as a client does: calls again if the server has no room."""
    deadline_s = time.monotonic() + seconds
    while True:
        left_s = deadline_s - time.monotonic()
        try:
            return bytes(caller.stub.CreateRun(iter(create_messages(make_spec())), timeout=left_s).run_id)
        except grpc.RpcError as error:
            if error.code() is not BUSY:  # type: ignore[attr-defined]
                raise
            time.sleep(0.1)


def test_queued_idle_streams_let_a_new_run_start_at_once() -> None:
    with serving(stream_threads=4, max_queued_streams=24) as (caller, idle, wait_for):
        kinds = [KINDS["CreateRun"], first_then_silent, trickling]
        held = [kinds[place % 3](idle) for place in range(24)]
        held += [KINDS[kind](idle) for kind in ("SeedRun", "reflection") for _ in range(24)]
        wait_for(72)
        began_s = time.monotonic()
        run = create_within(caller, 8.0)  # 6 rounds of 4 silent calls each
        generation = caller.attach(run)
        assert caller.plan(run, generation, 0).num_samples == 1000
        assert time.monotonic() - began_s < 8.0
        for call in held:
            call.cancel()


def test_a_crowd_of_calls_without_messages_delays_pushes_by_seconds_alone() -> None:
    with serving() as (caller, idle, wait_for):
        run = caller.create(make_spec()).run_id
        generation = caller.attach(run)
        caller.plan(run, generation, 0)
        held = [without_message(idle) for _ in range(10)]
        wait_for(10)
        # Two seconds for the first two, one for each pair behind them; without, 30 s for each pair.
        assert caller.stub.PushScores(push_request(run, generation, 1, 0, [1], [1.0]), timeout=20).accepted == 1
        for call in held:
            call.cancel()


def test_an_upload_is_not_cut_off_while_others_wait() -> None:
    spec = make_spec("large", num_samples=400_000, num_shards=400_000)

    def steadily() -> Iterator[Any]:
        for message in create_messages(spec):
            yield message
            time.sleep(0.3)  # of 2 s of patience, which every 512 KiB restore by a second

    with serving(stream_threads=1) as (caller, idle, wait_for):
        upload = pb_grpc.ScoreServiceStub(idle).CreateRun.future(steadily())
        wait_for(1)
        assert caller.create(make_spec()).created
        assert upload.result(10).created


def test_an_idle_stream_is_cut_off() -> None:
    with serving(idle_s=1.0) as (_, idle, _wait_for):
        began = time.monotonic()
        for kind in ("CreateRun", "SeedRun", "a heartbeat without its message"):
            call = KINDS[kind](idle)
            assert call.exception(10).code() == grpc.StatusCode.CANCELLED  # its deadline would be far off
        assert time.monotonic() - began < 9


def test_a_stream_that_is_read_slowly_but_steadily_is_not_cut_off() -> None:
    with serving(idle_s=2.0) as (caller, idle, _):
        caller.create(make_spec("large", num_samples=2**20))
        parts = 0
        for _ in pb_grpc.ScoreServiceStub(idle).ReadScores(pb.ReadScoresRequest(run="large")):
            time.sleep(0.3)  # 8 parts take longer than idle_s
            parts += 1
        assert parts == 8


def test_streams_over_the_cap_are_told_to_call_again_later() -> None:
    with serving(stream_threads=1, max_queued_streams=1) as (caller, idle, wait_for):
        held = [KINDS["SeedRun"](idle) for _ in range(2)]
        wait_for(2)
        with pytest.raises(grpc.RpcError) as caught:
            caller.stub.SeedRun(iter([pb.SeedRunRequest(run_id=bytes(16))]), timeout=5)
        error: Any = caught.value
        assert error.code() is BUSY
        metadata = dict(error.trailing_metadata())
        assert metadata["infobatch-error"] == "ServerBusyError"
        assert metadata["infobatch-retry-after-ms"] == "1000"
        for call in held:
            call.cancel()
