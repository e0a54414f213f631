"""The gRPC service: messages in, calls on runs, messages out."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import numpy as np

from infobatch_server.rpc.run_info import info_message
from infobatch_server.rpc.score_reader import batch_from_message
from infobatch_server.rpc.seeding import seed_run
from infobatch_server.runs.attach import AttachRequest
from infobatch_server.runs.barrier import BARRIER_TIMEOUT_S, NotReady
from infobatch_server.runs.registry import Registry
from infobatch_server.runs.run import LEASE_S
from infobatch_server.runs.snapshot import snapshot
from infobatch_server.state.limits import Limits
from infobatch_server.state.run_state import EpochMark, Lease, ResumePoint
from infobatch_stream.errors import ConfigError
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.plan.order_params import ORDER_VERSION
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1 import score_service_pb2_grpc as pb_grpc
from infobatch_stream.wire.plan_messages import plan_messages
from infobatch_stream.wire.row_counts import counts_from_message
from infobatch_stream.wire.spec_reader import read_spec
from infobatch_stream.wire.specs import spec_message

__all__ = ["ScoreService"]

_MIN_HEARTBEAT_S, _MAX_HEARTBEAT_S = 1.0, 5.0
_HEARTBEATS_PER_S = 100  # of one job
_READ_SAMPLES = 2**17  # at most 1 MiB a message for scores, stamps and visits


class ScoreService(pb_grpc.ScoreServiceServicer):
    """Answers calls for the runs of a registry.

    Args:
        registry: the runs.
        limits: bounds, as GetServer reports them.
        nonce: names this server process.
        version: the server's.
        durable: runs survive the process.
    """

    def __init__(self, registry: Registry, limits: Limits, *, nonce: str, version: str, durable: bool) -> None:
        self._registry = registry
        self._limits = limits
        self._nonce = nonce
        self._version = version
        self._durable = durable

    def CreateRun(
        self, request_iterator: Iterator[pb.CreateRunRequest], context: grpc.ServicerContext
    ) -> pb.CreateRunResponse:
        """Creates a run, or joins it."""
        with ExitStack() as stack:
            spec, choice = read_spec(
                request_iterator,
                max_samples=self._limits.max_samples,
                max_shards=self._limits.max_shards,
                account_for=lambda name: stack.enter_context(self._registry.upload(name)).add,
            )
            run, created = self._registry.create(spec, choice)
        now = snapshot(run)
        return pb.CreateRunResponse(
            run_id=run.run_id,
            created=created,
            spec=spec_message(now.spec),
            trained=now.state.trained,
            last_epoch=now.state.last_epoch,
        )

    def AttachRun(self, request: pb.AttachRunRequest, context: grpc.ServicerContext) -> pb.AttachRunResponse:
        """Gives a job the run's next generation."""
        run = self._registry.by_id(request.run_id)
        lease = Lease(
            job=request.job,
            attempt=request.attempt,
            nonce=request.nonce,
            host=request.host,
            pid=request.pid,
            world_size=request.world_size,
            remember_drops=request.remember_drops,
        )
        attach = AttachRequest(lease=lease, resume=_resume_point(request.resume), takeover=request.takeover)
        return pb.AttachRunResponse(
            run_id=run.run_id,
            generation=run.attach(attach),
            heartbeat_interval_ms=int(1000 * _heartbeat_interval_s(request.world_size)),
            lease_ms=int(1000 * LEASE_S),
            barrier_timeout_ms=int(1000 * BARRIER_TIMEOUT_S),
            server_version=self._version,
        )

    def DetachRun(self, request: pb.DetachRunRequest, context: grpc.ServicerContext) -> pb.DetachRunResponse:
        """Frees the lease, once every rank has called."""
        self._registry.by_id(request.run_id).detach(request.generation, request.rank)
        return pb.DetachRunResponse()

    def Heartbeat(self, request: pb.HeartbeatRequest, context: grpc.ServicerContext) -> pb.HeartbeatResponse:
        """Renews the lease."""
        self._registry.by_id(request.run_id).heartbeat(request.generation)
        return pb.HeartbeatResponse()

    def GetEpochPlan(
        self, request: pb.GetEpochPlanRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GetEpochPlanResponse]:
        """Streams a plan, or says that it isn't ready."""
        run = self._registry.by_id(request.run_id)
        shards = _shard_range(request, len(run.spec.shard_sizes))
        plan: EpochPlan | NotReady
        if request.plan_id:
            plan = run.plans.find(request.plan_id, epoch=request.epoch, generation=request.generation)
        else:
            plan = run.plans.get(request.generation, request.epoch)
        if isinstance(plan, NotReady):
            waits = pb.NotReady(missing_ranks=plan.missing_ranks, retry_after_ms=plan.retry_after_ms)
            yield pb.GetEpochPlanResponse(not_ready=waits)
        else:
            with run.plans.streaming(plan):
                yield from plan_messages(plan, run.spec.shard_sizes, from_chunk=request.from_chunk, shards=shards)

    def PushScores(self, request: pb.PushScoresRequest, context: grpc.ServicerContext) -> pb.PushScoresResponse:
        """Stores scores."""
        run = self._registry.by_id(request.run_id)
        spec = run.spec
        batch = batch_from_message(
            request,
            num_samples=spec.num_samples,
            epochs=spec.schedule.epochs,
            declared=spec.policy.pushed_columns,
            subset=spec.subset,
        )
        outcome = run.push(batch)
        return pb.PushScoresResponse(
            accepted=outcome.counts.accepted,
            non_finite=outcome.counts.non_finite,
            stale=outcome.counts.stale,
            duplicate=outcome.duplicate,
            journal_position=outcome.journal_position,
        )

    def EndEpoch(self, request: pb.EndEpochRequest, context: grpc.ServicerContext) -> pb.EndEpochResponse:
        """Marks an epoch as ended by one rank."""
        mark = EpochMark(
            generation=request.generation,
            epoch=request.epoch,
            rank=request.rank,
            plan_id=request.plan_id,
            start_position=request.start_position,
            end_position=request.end_position,
            counts=counts_from_message(request.counts),
        )
        return pb.EndEpochResponse(missing_ranks=self._registry.by_id(request.run_id).end_epoch(mark))

    def MarkUnpruned(self, request: pb.MarkUnprunedRequest, context: grpc.ServicerContext) -> pb.MarkUnprunedResponse:
        """Marks an epoch as trained unpruned."""
        self._registry.by_id(request.run_id).plans.mark_unpruned(request.generation, request.epoch)
        return pb.MarkUnprunedResponse()

    def ReadScores(
        self, request: pb.ReadScoresRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ReadScoresResponse]:
        """Streams a range of the score table."""
        run = self._registry.find(request.run, request.run_id)
        num_samples = run.spec.num_samples
        stop = request.end_sample or num_samples
        if not request.first_sample <= stop <= num_samples:
            raise ConfigError(f"samples [{request.first_sample}, {stop}) are outside [0, {num_samples}]")
        with run.core.streams.of_table():
            for first, part in run.read_scores(request.first_sample, stop, _READ_SAMPLES):
                message = pb.ReadScoresResponse(
                    first_sample=first,
                    scores=part.score.astype("<f4", copy=False).tobytes(),
                    stamps=part.stamp.astype("<u2", copy=False).tobytes(),
                    visits=part.visits.astype("<u2", copy=False).tobytes(),
                )
                for name, values in part.extra.items():
                    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
                    message.columns.add(name=name, dtype=str(np.dtype(values.dtype)), data=little.tobytes())
                yield message

    def SeedRun(
        self, request_iterator: Iterator[pb.SeedRunRequest], context: grpc.ServicerContext
    ) -> pb.SeedRunResponse:
        """Imports scores and a plan into a run without a job."""
        return seed_run(self._registry, request_iterator)

    def AmendRun(self, request: pb.AmendRunRequest, context: grpc.ServicerContext) -> pb.AmendRunResponse:
        """Changes a run's schedule."""
        spec = self._registry.by_id(request.run_id).amend(
            epochs=request.epochs if request.HasField("epochs") else None,
            delta=request.delta if request.HasField("delta") else None,
            anneal_epoch_check=request.anneal_epoch,
        )
        return pb.AmendRunResponse(spec=spec_message(spec))

    def GetServer(self, request: pb.GetServerRequest, context: grpc.ServicerContext) -> pb.GetServerResponse:
        """Describes this server."""
        return pb.GetServerResponse(
            nonce=self._nonce,
            version=self._version,
            order_versions=[ORDER_VERSION],
            max_samples=self._limits.max_samples,
            max_message_bytes=self._limits.max_message_bytes,
            max_in_flight_bytes=self._limits.max_in_flight_bytes,
            durable=self._durable,
        )

    def GetRun(self, request: pb.GetRunRequest, context: grpc.ServicerContext) -> pb.GetRunResponse:
        """One run's state."""
        return pb.GetRunResponse(run=info_message(snapshot(self._registry.find(request.run, request.run_id))))

    def ListRuns(self, request: pb.ListRunsRequest, context: grpc.ServicerContext) -> pb.ListRunsResponse:
        """Every run's state."""
        return pb.ListRunsResponse(runs=[info_message(snapshot(run)) for run in self._registry.runs()])

    def DeleteRun(self, request: pb.DeleteRunRequest, context: grpc.ServicerContext) -> pb.DeleteRunResponse:
        """Deletes a run."""
        run = self._registry.find(request.run, request.run_id)
        self._registry.delete(run, force=request.force, by=f"a call from {_host(context)}")
        return pb.DeleteRunResponse()

    def ForgetDrops(self, request: pb.ForgetDropsRequest, context: grpc.ServicerContext) -> pb.ForgetDropsResponse:
        """Forgets which samples a pipeline dropped."""
        run = self._registry.find(request.run, request.run_id)
        return pb.ForgetDropsResponse(forgotten=run.forget_drops())


def _host(context: grpc.ServicerContext) -> str:
    """The caller's address without its port, as gRPC has it: "ipv4:10.0.0.2:4711", "ipv6:%5B::1%5D:4711"."""
    peer = urllib.parse.unquote(context.peer())
    return peer.partition(":")[2].rpartition(":")[0] or peer


def _heartbeat_interval_s(world_size: int) -> float:
    """Short, as who starts a job twice waits for the next one to learn that the first job is alive."""
    return min(_MAX_HEARTBEAT_S, max(_MIN_HEARTBEAT_S, world_size / _HEARTBEATS_PER_S))


def _resume_point(message: pb.Resume) -> ResumePoint:
    at = message.WhichOneof("at")
    if at == "new":
        return ResumePoint(new=True)
    if at == "start":
        return ResumePoint(epoch=message.start.epoch)
    if at == "inside":
        if not message.inside.plan_id:
            raise ConfigError("resume inside an epoch needs the plan_id of that epoch's plan")
        return ResumePoint(epoch=message.inside.epoch, plan_id=message.inside.plan_id)
    raise ConfigError("AttachRun must say where training begins: set resume.new, resume.start or resume.inside")


def _shard_range(request: pb.GetEpochPlanRequest, num_shards: int) -> tuple[int, int] | None:
    if not request.HasField("first_shard") and not request.HasField("end_shard"):
        return None
    return request.first_shard, request.end_shard if request.HasField("end_shard") else num_shards
