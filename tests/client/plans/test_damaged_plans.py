"""A client takes no damaged plan from its server, and tries again if a stream breaks off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from infobatch_client.plans.fetch import fetch_plan
from infobatch_client.rpc.client import ScoreClient
from infobatch_stream.errors import PlanError, ServerUnreachableError
from infobatch_stream.plan.epoch_plan import EpochPlan, unpruned_plan
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1 import score_service_pb2_grpc as pb_grpc
from tests.core.worlds import RUN_ID
from tests.damaged_plans import DAMAGES, PLAN, SPEC, Messages, messages_of


class PlanService(pb_grpc.ScoreServiceServicer):
    """Answers GetEpochPlan with fixed messages; the first `breaks` streams break off in the middle."""

    def __init__(self, messages: Messages, breaks: int = 0) -> None:
        self.messages = messages
        self.breaks = breaks
        self.calls = 0

    def GetEpochPlan(
        self, request: pb.GetEpochPlanRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GetEpochPlanResponse]:
        self.calls += 1
        for place, message in enumerate(self.messages):
            if place == 2 and self.calls <= self.breaks:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the server goes down")
            yield message


@contextmanager
def client_of(service: PlanService) -> Iterator[ScoreClient]:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        pb_grpc.add_ScoreServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        client = ScoreClient(f"127.0.0.1:{port}", call_timeout_s=10)
        try:
            yield client
        finally:
            client.close()
            server.stop(None).wait(10)


def fetch(client: ScoreClient, timeout_s: float = 10) -> EpochPlan:
    return fetch_plan(client, run_id=RUN_ID, spec=SPEC, generation=1, epoch=1, plan_id="", timeout_s=timeout_s)


@pytest.mark.parametrize(("damaged", "words"), DAMAGES)
def test_a_damaged_plan_is_a_plan_error(damaged: Callable[[], Messages], words: str) -> None:
    service = PlanService(damaged())
    with client_of(service) as client, pytest.raises(PlanError, match=words):
        fetch(client)
    assert service.calls == 1


def test_a_stream_without_a_message_is_a_plan_error() -> None:
    with client_of(PlanService([])) as client, pytest.raises(PlanError, match="has no header"):
        fetch(client)


@pytest.mark.parametrize("kind", ["drawn", "full"])
def test_a_stream_that_breaks_off_is_fetched_again(kind: str) -> None:
    full = unpruned_plan(run_id=RUN_ID, epoch=1, seed=SPEC.seed, shard_sizes=SPEC.shard_sizes, order=SPEC.order)
    plan = PLAN if kind == "drawn" else full
    service = PlanService(messages_of(plan), breaks=2)
    with client_of(service) as client:
        found = fetch(client)
    assert service.calls == 3
    assert found.plan_id == plan.plan_id
    np.testing.assert_array_equal(found.keep_bits, plan.keep_bits)


def test_a_stream_that_breaks_off_for_too_long_is_an_outage() -> None:
    service = PlanService(messages_of(PLAN), breaks=1000)
    with client_of(service) as client, pytest.raises(ServerUnreachableError, match="the server goes down"):
        fetch(client, 0.6)
    assert service.calls > 1
