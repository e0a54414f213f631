"""Helpers of the server's tests: specs, requests and a stub on a real channel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.plan.order_params import OrderChoice, OrderParams
from infobatch_stream.pruning.groups import Groups
from infobatch_stream.pruning.policies import make_policy
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1 import score_service_pb2_grpc as pb_grpc
from infobatch_stream.wire.specs import plan_from_header, seal, spec_message, spec_parts

CLIENT = b"c" * 16
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
REFUSED = grpc.StatusCode.FAILED_PRECONDITION
ABORTED = grpc.StatusCode.ABORTED


def make_spec(
    run: str = "test",
    *,
    num_samples: int = 1000,
    num_shards: int = 10,
    epochs: int = 10,
    delta: str = "0.875",
    policy: str = "infobatch",
    seed: int = 7,
    subset: npt.NDArray[np.bool_] | None = None,
    groups: int = 0,
    **settings: Any,
) -> RunSpec:
    """A spec with shards of nearly equal size, which take turns in so many groups."""
    sizes = np.diff(np.linspace(0, num_samples, num_shards + 1).astype(np.int64))
    codes = np.arange(num_shards) % max(1, groups)
    names = tuple(f"g{code}" for code in range(groups))
    return RunSpec(
        groups=Groups(names, codes.astype(np.uint8), sizes) if groups else None,
        run=run,
        manifest_fingerprint=hashlib.sha256(b"manifest").digest(),
        shard_sizes=sizes,
        epochs=epochs,
        seed=seed,
        policy=make_policy(policy, delta=delta, **settings),
        order=OrderParams(lanes=1, stripe=8, window_shards=4),
        subset=subset,
    )


def create_messages(spec: RunSpec, choice: OrderChoice | None = None) -> list[pb.CreateRunRequest]:
    """The stream of CreateRun."""
    return [pb.CreateRunRequest(spec=spec_message(spec, choice or OrderChoice())), *spec_parts(spec)]


def attach_request(run_id: bytes, **fields: Any) -> pb.AttachRunRequest:
    """A job's AttachRun; by default a new training."""
    defaults: dict[str, Any] = {
        "job": "none",
        "attempt": 0,
        "nonce": b"n" * 16,
        "host": "node1",
        "pid": 41,
        "world_size": 1,
        "resume": pb.Resume(new=pb.Resume.New()),
    }
    return pb.AttachRunRequest(run_id=run_id, **{**defaults, **fields})


def push_request(
    run_id: bytes,
    generation: int,
    sequence: int,
    epoch: int,
    indices: Iterable[int],
    scores: Iterable[float],
    client_id: bytes = CLIENT,
) -> pb.PushScoresRequest:
    """A push."""
    return pb.PushScoresRequest(
        run_id=run_id,
        generation=generation,
        client_id=client_id,
        sequence=sequence,
        epoch=epoch,
        indices=np.array(list(indices), "<i8").tobytes(),
        scores=np.array(list(scores), "<f4").tobytes(),
    )


def end_request(
    run_id: bytes, generation: int, epoch: int, plan_id: str, rank: int = 0, trained: int = 10
) -> pb.EndEpochRequest:
    """The end of an epoch, after its first positions."""
    return pb.EndEpochRequest(
        run_id=run_id,
        generation=generation,
        epoch=epoch,
        rank=rank,
        plan_id=plan_id,
        start_position=0,
        end_position=trained,
        counts=pb.RowCounts(real=trained),
    )


def plan_of(messages: Iterable[pb.GetEpochPlanResponse]) -> EpochPlan:
    """The plan of a message stream; fails if its digest doesn't match its id."""
    parts: dict[int, list[bytes]] = {}
    kept = b""
    header = None
    for message in messages:
        part = message.WhichOneof("part")
        assert part != "not_ready", message
        if part == "header":
            header = message.header
        elif part == "shard_kept":
            kept += message.shard_kept.kept
        else:
            parts.setdefault(message.chunk.plane, []).append(message.chunk.data)
    assert header is not None
    planes = {plane: np.frombuffer(b"".join(data), np.uint8) for plane, data in parts.items()}
    plan = plan_from_header(
        header,
        np.frombuffer(kept, "<i8"),
        planes[pb.PLANE_KEEP_BITS],
        planes.get(pb.PLANE_CLASS_BITS, planes.get(pb.PLANE_CLASS_CODES)),
    )
    if not plan.plan_id.startswith("full:"):
        assert seal(plan).plan_id == plan.plan_id
    return plan


@dataclass
class Caller:
    """A stub, and the calls that start nearly every test."""

    stub: Any

    def create(self, spec: RunSpec, choice: OrderChoice | None = None) -> pb.CreateRunResponse:
        return self.stub.CreateRun(iter(create_messages(spec, choice)), timeout=10)

    def attach(self, run_id: bytes, **fields: Any) -> int:
        return self.stub.AttachRun(attach_request(run_id, **fields), timeout=10).generation

    def plan(self, run_id: bytes, generation: int, epoch: int, **fields: Any) -> EpochPlan:
        request = pb.GetEpochPlanRequest(run_id=run_id, generation=generation, epoch=epoch, **fields)
        return plan_of(self.stub.GetEpochPlan(request, timeout=10))

    def push_all(self, run_id: bytes, generation: int, epoch: int, sequence: int, scores: npt.NDArray[Any]) -> Any:
        request = push_request(run_id, generation, sequence, epoch, range(len(scores)), scores)
        return self.stub.PushScores(request, timeout=10)

    def end(self, run_id: bytes, generation: int, epoch: int, plan_id: str, rank: int = 0) -> Any:
        return self.stub.EndEpoch(end_request(run_id, generation, epoch, plan_id, rank), timeout=10)


def caller_on(address: str) -> tuple[grpc.Channel, Caller]:
    """A channel to a server, and a caller on it."""
    channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
    return channel, Caller(pb_grpc.ScoreServiceStub(channel))


@contextmanager
def status(code: grpc.StatusCode, words: str, kind: str | None = None) -> Iterator[None]:
    """Calls inside must fail with this status and these words."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error: Any = caught.value
    assert error.code() == code, error.details()
    assert words in error.details()
    if kind is not None:
        assert dict(error.trailing_metadata())["infobatch-error"] == kind
