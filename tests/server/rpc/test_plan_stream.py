"""Plans in parts, and their slow readers."""

from __future__ import annotations

import zlib
from typing import Any

from infobatch_server.server import ScoreServer
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import (
    INVALID,
    Caller,
    caller_on,
    make_spec,
    plan_of,
    push_request,
    status,
)


def test_parts_carry_their_checksum_and_stay_under_a_mebibyte(caller: Caller) -> None:
    num_samples = 2**23 + 12_345
    run = caller.create(make_spec(num_samples=num_samples, num_shards=3)).run_id
    generation = caller.attach(run)
    messages = list(caller.stub.GetEpochPlan(pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=0)))
    chunks = [message.chunk for message in messages if message.HasField("chunk")]
    assert {chunk.chunk for chunk in chunks} == {0, 1}
    for chunk in chunks:
        assert len(chunk.data) <= 2**20
        assert zlib.crc32(chunk.data) == chunk.crc32
    whole = plan_of(messages)
    assert whole.num_samples == num_samples

    def chunks_of(**fields: Any) -> set[int]:
        request = pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=0, **fields)
        return {answer.chunk.chunk for answer in caller.stub.GetEpochPlan(request) if answer.HasField("chunk")}

    assert chunks_of(from_chunk=1) == {1}
    assert chunks_of(from_chunk=2) == set()
    assert chunks_of(first_shard=0, end_shard=1) == {0}
    assert chunks_of(first_shard=2) == {0, 1}
    assert chunks_of(first_shard=3) == set()
    with status(INVALID, "from_chunk=3: the plan has 2 chunks"):
        chunks_of(from_chunk=3)
    with status(INVALID, "shards [2, 9) are outside [0, 3]"):
        chunks_of(first_shard=2, end_shard=9)


def test_slow_readers_of_plans_leave_threads_for_scores() -> None:
    from infobatch_server.state.limits import Limits

    # A stream of this size doesn't fit into flow control's windows, so that an unread one keeps its thread.
    with ScoreServer(limits=Limits(worker_threads=3, plan_streams=2)) as server:
        channel, caller = caller_on(str(server.grpc_address))
        with channel:
            spec = make_spec(num_samples=2**23, num_shards=3, policy="levels", levels="0.2:0.75,0.85:0.5")
            run = caller.create(spec).run_id
            generation = caller.attach(run)
            request = pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=0)
            unread = []
            for _ in range(2):
                unread.append(caller.stub.GetEpochPlan(request))
                assert next(unread[-1]).WhichOneof("part") == "header"
            (answer,) = caller.stub.GetEpochPlan(request)
            assert answer.not_ready.retry_after_ms > 0
            assert not answer.not_ready.missing_ranks
            assert caller.stub.PushScores(push_request(run, generation, 1, 0, [0], [1.0]), timeout=5).accepted == 1
            for stream in unread:
                stream.cancel()
