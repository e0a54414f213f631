"""Each rpc is a method, and what a server answers is an error of this project: busy, not there, or final."""

from __future__ import annotations

import inspect
import pickle
import re
import time
import typing
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import torch

from infobatch_client.rpc.client import ScoreClient, retry_until
from infobatch_client.run.score_pusher import ScorePusher
from infobatch_server.server import ScoreServer
from infobatch_stream.errors import RunNotFoundError, ServerBusyError, ServerUnreachableError
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1 import score_service_pb2_grpc as pb_grpc
from tests.server.calls import attach_request, create_messages, end_request, make_spec, push_request

SERVICE = pb.DESCRIPTOR.services_by_name["ScoreService"]


class BusyService(pb_grpc.ScoreServiceServicer):
    """Refuses the first `refusals` calls, as a server with too much to do does."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.calls: list[str] = []

    def GetServer(self, request: pb.GetServerRequest, context: grpc.ServicerContext) -> pb.GetServerResponse:
        self._refuse("GetServer", context)
        return pb.GetServerResponse(nonce="free")

    def PushScores(self, request: pb.PushScoresRequest, context: grpc.ServicerContext) -> pb.PushScoresResponse:
        self._refuse("PushScores", context)
        return pb.PushScoresResponse(accepted=len(request.scores) // 4)

    def EndEpoch(self, request: pb.EndEpochRequest, context: grpc.ServicerContext) -> pb.EndEpochResponse:
        self._refuse("EndEpoch", context)
        return pb.EndEpochResponse()

    def _refuse(self, rpc: str, context: grpc.ServicerContext) -> None:
        self.calls.append(rpc)
        if self.refusals:
            self.refusals -= 1
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")


@pytest.fixture
def busy() -> Iterator[tuple[BusyService, ScoreClient]]:
    service = BusyService(0)
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        pb_grpc.add_ScoreServiceServicer_to_server(service, server)
        client = ScoreClient(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        server.start()
        yield service, client
        client.close()
        server.stop(None).wait(10)


@pytest.fixture
def client() -> Iterator[ScoreClient]:
    with ScoreServer() as server:
        client = ScoreClient(str(server.grpc_address))
        yield client
        client.close()


@pytest.mark.parametrize("rpc", [pytest.param(method, id=method.name) for method in SERVICE.methods])
def test_each_rpc_is_a_method_of_its_own_messages(rpc: typing.Any) -> None:
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", rpc.name).lower()
    hints = typing.get_type_hints(getattr(ScoreClient, name))
    request, answer = (getattr(pb, kind.name) for kind in (rpc.input_type, rpc.output_type))
    argument = next(iter(inspect.signature(getattr(ScoreClient, name)).parameters.keys() - {"self", "timeout_s"}))
    assert hints[argument] == (Iterable[request] if rpc.client_streaming else request)
    assert hints["return"] == (Iterator[answer] if rpc.server_streaming else answer)


def test_a_run_lives_through_all_of_its_calls(client: ScoreClient) -> None:
    assert client.get_server(pb.GetServerRequest()).nonce
    spec = make_spec("calls", policy="random")
    run_id = client.create_run(create_messages(spec)).run_id
    scores = pb.SeedRunRequest.Scores(scores=np.ones(1000, "<f4").tobytes())
    assert client.seed_run([pb.SeedRunRequest(run_id=run_id), pb.SeedRunRequest(scores=scores)]).scored == 1000
    generation = client.attach_run(attach_request(run_id)).generation
    client.heartbeat(pb.HeartbeatRequest(run_id=run_id, generation=generation))
    plan = list(client.get_epoch_plan(pb.GetEpochPlanRequest(run_id=run_id, generation=generation, epoch=0)))
    assert client.push_scores(push_request(run_id, generation, 1, 0, [4], [2.0])).accepted == 1
    assert not client.end_epoch(end_request(run_id, generation, 0, plan[0].header.plan_id)).missing_ranks
    client.mark_unpruned(pb.MarkUnprunedRequest(run_id=run_id, generation=generation, epoch=1))
    parts = list(client.read_scores(pb.ReadScoresRequest(run="calls", first_sample=3, end_sample=6)))
    assert np.frombuffer(parts[0].scores, "<f4").tolist() == [1.0, 2.0, 1.0]
    client.detach_run(pb.DetachRunRequest(run_id=run_id, generation=generation))
    assert client.amend_run(pb.AmendRunRequest(run_id=run_id, epochs=20, anneal_epoch=17)).spec.epochs == 20
    assert client.get_run(pb.GetRunRequest(run="calls")).run.last_epoch == 1
    assert [run.run for run in client.list_runs(pb.ListRunsRequest()).runs] == ["calls"]
    client.delete_run(pb.DeleteRunRequest(run="calls"))
    with pytest.raises(RunNotFoundError, match="no run"):
        client.get_run(pb.GetRunRequest(run="calls"))
    with pytest.raises(RunNotFoundError):
        list(client.read_scores(pb.ReadScoresRequest(run="calls")))
    with pytest.raises(RunNotFoundError):
        client.seed_run([pb.SeedRunRequest(run_id=run_id)])


def test_a_server_that_is_not_there_is_unreachable() -> None:
    client = ScoreClient("127.0.0.1:9", call_timeout_s=0.5)
    with pytest.raises(ServerUnreachableError, match=r"GetServer at 127.0.0.1:9: "):
        client.get_server(pb.GetServerRequest())
    with pytest.raises(ServerUnreachableError, match=r"no score server answered at url='127.0.0.1:9' within 0.3 s"):
        client.wait_until_up(0.3)
    client.close()
    with pytest.raises(ServerUnreachableError, match="is closed"):
        client.get_server(pb.GetServerRequest())


def test_a_busy_server_is_called_again(busy: tuple[BusyService, ScoreClient]) -> None:
    service, client = busy
    service.refusals = 2
    with pytest.raises(ServerBusyError, match=r"GetServer at .*: RESOURCE_EXHAUSTED: too many calls"):
        client.get_server(pb.GetServerRequest())
    assert retry_until(lambda _: client.get_server(pb.GetServerRequest()), 10).nonce == "free"
    service.refusals = 1
    assert client.wait_until_up(10).nonce == "free"
    assert len(service.calls) == 5


def test_a_server_that_stays_busy_is_not_called_absent(busy: tuple[BusyService, ScoreClient]) -> None:
    service, client = busy
    service.refusals = 10**9
    started_s = time.monotonic()
    with pytest.raises(ServerBusyError, match="too many calls"):
        client.wait_until_up(0.5)
    assert time.monotonic() - started_s < 5


def test_scores_wait_for_a_busy_server(busy: tuple[BusyService, ScoreClient]) -> None:
    service, client = busy
    service.refusals = 2
    pusher = ScorePusher(client, run_id=bytes(16), generation=1, heartbeat_interval_s=1000).start()
    pusher.put_scores(0, np.array([1, 2]), torch.ones(2))
    pusher.put_message(pb.EndEpochRequest())
    assert pusher.flush(10)
    assert pusher.close(1)
    assert service.calls == ["PushScores", "PushScores", "PushScores", "EndEpoch"]
    assert (pusher.counts.pushed, pusher.counts.retries, pusher.counts.lost) == (2, 2, 0)


def test_a_copy_in_another_process_opens_a_channel_of_its_own(client: ScoreClient) -> None:
    nonce = client.get_server(pb.GetServerRequest()).nonce
    copy = pickle.loads(pickle.dumps(client))
    assert copy._channel is None
    assert copy.get_server(pb.GetServerRequest()).nonce == nonce
    copy.close()
