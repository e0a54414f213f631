"""Malformed and odd calls over every rpc: a status of the caller's mistake, and no memory that stays."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from benchmarks.malformed import DEFECTS, METHODS, Sender, resident_kib
from benchmarks.malformed import server as server_process
from infobatch_server.server import ScoreServer
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import INVALID, Caller, caller_on, create_messages, make_spec, push_request, status

MALFORMED = b"\xff\xff\xff"


@pytest.fixture
def channel(server: ScoreServer) -> Iterator[grpc.Channel]:
    channel, _ = caller_on(str(server.grpc_address))
    with channel:
        yield channel


def code_of(channel: grpc.Channel, path: str, *messages: bytes, **options: Any) -> grpc.StatusCode:
    call = channel.stream_stream(path)(iter(messages), timeout=10, **options)
    try:
        list(call)
    except grpc.RpcError:
        pass
    return call.code()  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", METHODS, ids=[method.full_name for method in METHODS])
def test_a_malformed_message_is_the_callers_mistake(channel: grpc.Channel, method: Any) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    assert code_of(channel, path, MALFORMED) == INVALID


def test_a_malformed_message_is_one_line_of_log(
    channel: grpc.Channel, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    heartbeat = channel.unary_unary("/infobatch_stream.v1.ScoreService/Heartbeat")
    with (
        caplog.at_level(logging.INFO),
        status(INVALID, "3 bytes are not a valid HeartbeatRequest", "ConfigError"),
    ):
        heartbeat(MALFORMED, timeout=10)
    assert [record.getMessage() for record in caplog.records] == [
        "refused a message of 3 bytes that is no HeartbeatRequest"
    ]


def test_a_malformed_second_message_does_not_pass_for_the_end_of_the_stream(
    channel: grpc.Channel, caller: Caller
) -> None:
    first, second = (message.SerializeToString() for message in create_messages(make_spec()))
    path = "/infobatch_stream.v1.ScoreService/CreateRun"
    assert code_of(channel, path, first, second, MALFORMED) == INVALID
    assert not caller.stub.ListRuns(pb.ListRunsRequest()).runs


def test_a_call_without_a_message_is_the_callers_mistake(channel: grpc.Channel) -> None:
    assert code_of(channel, "/infobatch_stream.v1.ScoreService/Heartbeat") == INVALID


def test_unknown_methods_and_compressed_messages_are_unimplemented(channel: grpc.Channel, caller: Caller) -> None:
    unknown = grpc.StatusCode.UNIMPLEMENTED
    assert code_of(channel, "/infobatch_stream.v1.ScoreService/Nothing", b"") == unknown
    assert code_of(channel, "/no.Service/Heartbeat", b"") == unknown
    bomb = bytes(3_000_000)
    path = "/infobatch_stream.v1.ScoreService/Heartbeat"
    assert code_of(channel, path, bomb, compression=grpc.Compression.Gzip) == unknown


def test_a_message_over_the_limit_is_resource_exhausted(channel: grpc.Channel) -> None:
    path = "/infobatch_stream.v1.ScoreService/PushScores"
    assert code_of(channel, path, bytes(5 * 2**20)) == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_thousands_of_malformed_calls_meet_no_defect_and_leave_no_memory() -> None:
    with server_process("--memory-bytes", "200000000") as (process, address, _):
        sender = Sender(address, seed=1)
        sender.send(700)
        before_kib = resident_kib(process)
        sender.send(1500)
        after_kib = resident_kib(process)
        path = "/infobatch_stream.v1.ScoreService/Heartbeat"
        channel, _ = caller_on(address)
        with channel:
            heartbeat = channel.unary_unary(path)
            for _ in range(1000):
                with pytest.raises(grpc.RpcError):
                    heartbeat(MALFORMED, timeout=10)
        flood_kib = resident_kib(process) - after_kib
        sender.close()
    assert not [ending for ending in sender.statuses if ending[1] in DEFECTS]
    assert {name for name, _ in sender.statuses} == {method.name for method in METHODS}
    assert sum(sender.statuses.values()) == 2200
    # gRPC's deserialiser kept 16 KiB of each malformed call.
    assert flood_kib < 1000 * 4
    assert after_kib - before_kib < 1500 * 8


def test_new_client_ids_of_a_generation_are_bounded_and_living_ones_go_on(caller: Caller, run: bytes) -> None:
    from infobatch_server.runs.score_feed import max_clients

    generation = caller.attach(run, world_size=2)
    caller.plan(run, generation, 0)

    def push(client: int, sequence: int) -> Any:
        request = push_request(run, generation, sequence, 0, [client % 1000], [1.0], client.to_bytes(16, "big"))
        return caller.stub.PushScores(request, timeout=10)

    for client in range(max_clients(2)):
        assert not push(client, 1).duplicate
    with status(grpc.StatusCode.RESOURCE_EXHAUSTED, "1028 client ids have pushed scores", "ServerBusyError"):
        push(max_clients(2), 1)
    assert push(0, 1).duplicate  # the oldest pusher's window is still known
    assert push(0, 2).accepted == 1
    generation = caller.attach(run, takeover=True, nonce=b"m" * 16, resume=pb.Resume(start=pb.Resume.Start(epoch=1)))
    assert push(max_clients(2), 1).accepted == 1
