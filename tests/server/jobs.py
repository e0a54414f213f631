"""A job of several ranks through real calls: the requests of each rank in an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import ABORTED, Caller, end_request, push_request

SAMPLES = 1000


def scores_of(epoch: int, salt: int = 0) -> npt.NDArray[np.float32]:
    """Scores of all samples, different for each epoch and salt."""
    return np.random.default_rng([salt, epoch]).random(SAMPLES).astype(np.float32)


def start_of(epoch: int) -> pb.Resume:
    """Resumes at the start of an epoch."""
    return pb.Resume(start=pb.Resume.Start(epoch=epoch))


def inside(epoch: int, plan_id: str) -> pb.Resume:
    """Resumes inside an epoch."""
    return pb.Resume(inside=pb.Resume.Inside(epoch=epoch, plan_id=plan_id))


@dataclass
class Job:
    """A job that is attached to a run; every rank pushes under its own client id."""

    caller: Caller
    run: bytes
    world_size: int
    generation: int
    sent: dict[int, int] = field(default_factory=dict)

    @classmethod
    def attach(cls, caller: Caller, run: bytes, world_size: int = 1, **fields: Any) -> Job:
        """Attaches a job; `fields` are those of AttachRunRequest."""
        return cls(caller, run, world_size, caller.attach(run, world_size=world_size, **fields))

    def plan(self, epoch: int) -> EpochPlan:
        """The epoch's plan, which must be the same for every rank."""
        plans = [self.caller.plan(self.run, self.generation, epoch) for _ in range(self.world_size)]
        assert len({plan.plan_id for plan in plans}) == 1
        return plans[0]

    def not_ready(self, epoch: int) -> pb.NotReady:
        """The `NotReady` answer to a request for a plan; fails if the plan is ready."""
        request = pb.GetEpochPlanRequest(run_id=self.run, generation=self.generation, epoch=epoch)
        (message,) = self.caller.stub.GetEpochPlan(request, timeout=10)
        return message.not_ready  # type: ignore[no-any-return]

    def push(
        self, epoch: int, indices: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], rank: int = 0
    ) -> pb.PushScoresResponse:
        """Pushes scores (N,) of some samples."""
        self.sent[rank] = self.sent.get(rank, 0) + 1
        client = self.generation.to_bytes(8, "big") + rank.to_bytes(8, "big")
        request = push_request(self.run, self.generation, self.sent[rank], epoch, indices, scores[indices], client)
        return self.caller.stub.PushScores(request, timeout=10)  # type: ignore[no-any-return]

    def end(self, epoch: int, plan_id: str, rank: int = 0) -> list[int]:
        """Ends an epoch on a rank; returns the ranks that have not."""
        request = end_request(self.run, self.generation, epoch, plan_id, rank)
        return list(self.caller.stub.EndEpoch(request, timeout=10).missing_ranks)

    def train(self, epoch: int, scores: npt.NDArray[np.float32]) -> EpochPlan:
        """A whole epoch: every rank pushes its share of the kept samples, all of which must be stored, and ends it."""
        plan = self.plan(epoch)
        for rank, share in enumerate(np.array_split(plan.kept_between(0, SAMPLES), self.world_size)):
            assert self.push(epoch, share, scores, rank).accepted == len(share)
        missing = [self.end(epoch, plan.plan_id, rank) for rank in range(self.world_size)]
        assert missing[-1] == []
        return plan


@contextmanager
def superseded(by: int) -> Iterator[None]:
    """Calls inside must fail because a newer generation has taken over."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error: Any = caught.value
    assert error.code() == ABORTED, error.details()
    assert f"was replaced by {by}" in error.details()
    assert dict(error.trailing_metadata())["infobatch-error"] == "SupersededError"


def everything(caller: Caller, run: bytes) -> list[bytes]:
    """All that can be read of a run: its state, its scores, stamps and visits, and its plans."""
    info = caller.stub.GetRun(pb.GetRunRequest(run_id=run)).run
    plans = [
        message
        for plan_id in info.plan_ids
        for message in caller.stub.GetEpochPlan(
            pb.GetEpochPlanRequest(run_id=run, plan_id=plan_id, epoch=int(plan_id.split("-")[2]))
        )
    ]
    messages = [info, *caller.stub.ReadScores(pb.ReadScoresRequest(run_id=run)), *plans]
    return [message.SerializeToString(deterministic=True) for message in messages]


def table_of(caller: Caller, run: bytes) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint16]]:
    """Scores and stamps of every sample."""
    (part,) = caller.stub.ReadScores(pb.ReadScoresRequest(run_id=run))
    return np.frombuffer(part.scores, "<f4"), np.frombuffer(part.stamps, "<u2")
