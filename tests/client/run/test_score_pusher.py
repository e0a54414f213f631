"""What the pusher sends: the newest score of each sample, in the order of epochs and control messages, once."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_client.rpc.client import ScoreClient
from infobatch_client.run.score_pusher import ScorePusher
from infobatch_server.server import ScoreServer
from infobatch_stream.errors import ServerUnreachableError
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import caller_on, make_spec

RUN = b"r" * 16


class Wire(ScoreClient):
    """Records calls instead of sending them; the first `failures` of them fail."""

    def __init__(self) -> None:
        super().__init__("nowhere:1")
        self.sent: list[tuple[str, Any]] = []
        self.tried: list[bytes] = []
        self.failures = 0
        self.open = threading.Event()
        self.open.set()

    def _unary(self, choose: Any, request: Any, timeout_s: float | None) -> Any:
        self.open.wait()
        self.tried.append(request.SerializeToString())
        if self.failures:
            self.failures -= 1
            raise ServerUnreachableError("away")
        self.sent.append((type(request).__name__.removesuffix("Request"), request))
        return pb.PushScoresResponse()


def pusher_on(wire: ScoreClient) -> ScorePusher:
    return ScorePusher(wire, run_id=RUN, generation=1, heartbeat_interval_s=1000).start()


def put(pusher: ScorePusher, epoch: int, index: list[int], scores: list[float]) -> None:
    pusher.put_scores(epoch, np.array(index, np.int64), torch.tensor(scores, dtype=torch.float32))


def records(request: pb.PushScoresRequest) -> dict[int, float]:
    index, scores = np.frombuffer(request.indices, "<i8"), np.frombuffer(request.scores, "<f4")
    assert len(set(index.tolist())) == len(index)
    return dict(zip(index.tolist(), scores.tolist(), strict=True))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.tuples(st.integers(-1, 9), st.integers(0, 99)), max_size=8), max_size=12))
def test_of_a_samples_scores_in_an_epoch_the_newest_arrives(batches: list[list[tuple[int, int]]]) -> None:
    wire = Wire()
    wire.open.clear()
    pusher = pusher_on(wire)
    for batch in batches:
        put(pusher, 3, [index for index, _ in batch], [float(score) for _, score in batch])
    wire.open.set()
    assert pusher.flush(10)
    pusher.close(1)
    arrived: dict[int, float] = {}
    for _, request in wire.sent:
        arrived.update(records(request))
    assert arrived == {index: float(score) for batch in batches for index, score in batch if index >= 0}
    assert [request.sequence for _, request in wire.sent] == list(range(1, len(wire.sent) + 1))


def test_epochs_and_control_messages_keep_their_order() -> None:
    wire = Wire()
    pusher = pusher_on(wire)
    put(pusher, 0, [1], [1.0])
    pusher.put_message(pb.EndEpochRequest(epoch=0))
    pusher.put_message(pb.MarkUnprunedRequest(epoch=1))
    put(pusher, 1, [1], [2.0])
    assert pusher.flush(10)
    pusher.close(1)
    assert [(rpc, request.epoch) for rpc, request in wire.sent] == [
        ("PushScores", 0),
        ("EndEpoch", 0),
        ("MarkUnpruned", 1),
        ("PushScores", 1),
    ]


def test_a_push_that_is_sent_again_has_the_same_bytes() -> None:
    wire = Wire()
    wire.failures = 3
    pusher = pusher_on(wire)
    put(pusher, 0, [1, 2], [1.0, 2.0])
    while pusher.counts.retries < 2:
        put(pusher, 0, [1], [9.0])
        pusher.flush(0.05)
    assert pusher.flush(10)
    pusher.close(1)
    assert wire.tried[:3] == [wire.tried[0]] * 3
    assert records(wire.sent[-1][1])[1] == 9.0


def test_what_cannot_be_sent_is_counted_when_it_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire()
    wire.failures = 10**9
    pusher = pusher_on(wire)
    put(pusher, 0, [1, 2, -1], [1.0, 2.0, 3.0])
    assert not pusher.flush(0.2)
    pusher.close(0.1)
    assert pusher.counts.lost == 2
    assert "2 scores of the run did not reach the server" in caplog.text


def test_memory_in_an_outage_is_bounded_by_the_data_set() -> None:
    wire = Wire()
    wire.failures = 10**9
    pusher = pusher_on(wire)
    index = np.arange(1000)
    for _ in range(200):
        pusher.put_scores(0, index, torch.rand(1000))
    pusher.flush(0.5)
    waiting = pusher.outbox.records
    pusher.close(0.1)
    assert waiting <= 20_000


def test_non_finite_scores_are_counted_by_the_server() -> None:
    with ScoreServer() as server:
        channel, caller = caller_on(str(server.grpc_address))
        run = caller.create(make_spec("nan")).run_id
        generation = caller.attach(run)
        caller.plan(run, generation, 0)
        client = ScoreClient(str(server.grpc_address))
        pusher = ScorePusher(client, run_id=run, generation=generation, heartbeat_interval_s=1000).start()
        put(pusher, 0, [1, 2, 3], [1.0, float("nan"), float("inf")])
        assert pusher.flush(10)
        pusher.close(1)
        client.close()
        channel.close()
        assert (pusher.counts.pushed, pusher.counts.rejected) == (3, 2)
