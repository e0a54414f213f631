"""Fetches an epoch's plan from the server, and waits until the server has it."""

from __future__ import annotations

import time

from infobatch_client.rpc.client import ScoreClient, retry_until
from infobatch_stream.errors import AccessError, PlanNotReadyError, TryAgainError
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.plan_reader import PlanReader

__all__ = ["fetch_plan"]


def fetch_plan(
    client: ScoreClient,
    *,
    run_id: bytes,
    spec: RunSpec,
    generation: int,
    epoch: int,
    plan_id: str,
    timeout_s: float,
) -> EpochPlan:
    """The plan of an epoch, as soon as every rank has ended the epoch before.

    Args:
        client: of the run's server.
        run_id: 16 bytes.
        spec: the run's; a plan that doesn't fit it is rejected.
        generation: the attached one.
        epoch: the epoch.
        plan_id: the only acceptable plan; "" accepts the epoch's.
        timeout_s: for the barrier and an outage together.

    Raises:
        PlanNotReadyError: other ranks have not ended the epoch before in that time.
        ServerUnreachableError, ServerBusyError, AccessError: no answer in that time.
        PlanError: the stream is damaged, or its bytes don't give the plan's id.
    """
    deadline_s = time.monotonic() + timeout_s
    request = pb.GetEpochPlanRequest(run_id=run_id, generation=generation, epoch=epoch, plan_id=plan_id)
    while True:
        answer = retry_until(
            lambda left_s: _receive(client, request, spec, left_s),
            deadline_s - time.monotonic(),
            on=(TryAgainError, AccessError),  # a token that is about to be replaced is no reason to end the training
        )
        if isinstance(answer, EpochPlan):
            return answer
        if time.monotonic() >= deadline_s:
            raise PlanNotReadyError(f"{client.address} has no plan of epoch {epoch} yet: {_cause(answer)}")
        time.sleep(max(0.01, min(answer.retry_after_ms / 1000, deadline_s - time.monotonic())))


def _cause(answer: pb.NotReady) -> str:
    if answer.missing_ranks:
        return f"ranks {list(answer.missing_ranks)} have not ended the epoch before"
    return "it is still drawing the plan, or is sending too many plans at once"


def _receive(
    client: ScoreClient, request: pb.GetEpochPlanRequest, spec: RunSpec, timeout_s: float
) -> EpochPlan | pb.NotReady:
    reader = PlanReader(spec)
    for message in client.get_epoch_plan(request, timeout_s=timeout_s):
        if message.WhichOneof("part") == "not_ready":
            return message.not_ready
        reader.add(message)
    return reader.plan()
