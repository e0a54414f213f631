"""The gRPC server around the service: options, health, reflection, and a port of its own."""

from __future__ import annotations

import grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import ReflectionServicer

from infobatch_server.access.access import Access
from infobatch_server.rpc.call_pool import CallPool
from infobatch_server.rpc.guard import Guard
from infobatch_server.rpc.health import SERVICE as HEALTH
from infobatch_server.rpc.health import Health
from infobatch_server.rpc.idle_calls import IdleCalls
from infobatch_server.rpc.methods import Methods
from infobatch_server.rpc.service import ScoreService
from infobatch_server.state.limits import Limits
from infobatch_stream.errors import ServerError
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["GrpcServer", "server_options"]

_SERVICE = pb.DESCRIPTOR.services_by_name["ScoreService"]
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
_STREAMS = ("CreateRun", "SeedRun", "ReadScores", "ServerReflectionInfo", "Watch")
_BUSY_PLANS = pb.GetEpochPlanResponse(not_ready=pb.NotReady(retry_after_ms=250))
_CALL_PATIENCE_S = 2.0
_MIN_CALL_PATIENCE_S = 1.0  # a message has up to 4 MiB, and most of it comes only once a thread reads it
_STREAM_PATIENCE_S = 2.0
_PLAN_PATIENCE_S = 5.0


def server_options(limits: Limits) -> list[tuple[str, int]]:
    """The channel arguments of a score server."""
    return [
        # Otherwise a second server binds the same port without a word, and takes half of the calls.
        ("grpc.so_reuseport", 0),
        # Otherwise flow control lets in the whole message of a call that still waits for a thread. 200 queued messages
        # of 4 MiB took 830 MiB; so they take 64 KiB each, and the rest comes once a thread reads it.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients may ping every ten seconds; more often, and the connection is closed.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 0),
        # A connection that never speaks HTTP/2, and one without calls: clients connect again by themselves.
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_connection_idle_ms", 600_000),
        # No compressed requests, which a message's limit doesn't bound before they are decompressed.
        ("grpc.compression_enabled_algorithms_bitset", 1),
    ]


class GrpcServer:
    """A gRPC server on one address.

    Each kind of stream has threads of its own, so that the others remain free for scores and heartbeats.

    Args:
        service: answers.
        limits: bounds.
        address: host:port; port 0 takes a free one.
        access: what guards the server.

    Raises:
        ServerError: the address can't be bound.
    """

    def __init__(self, service: ScoreService, limits: Limits, address: str, access: Access) -> None:
        self._calls = CallPool(
            "calls",
            limits.worker_threads,
            max_waiting=limits.max_queued_calls,
            patience_s=_CALL_PATIENCE_S,
            min_patience_s=_MIN_CALL_PATIENCE_S,
        )
        plans = CallPool("GetEpochPlan", limits.plan_streams, max_waiting=0, patience_s=_PLAN_PATIENCE_S)
        self._streams = {
            name: CallPool(
                name, limits.stream_threads, max_waiting=limits.max_queued_streams, patience_s=_STREAM_PATIENCE_S
            )
            for name in _STREAMS
        }
        self._streams["GetEpochPlan"] = plans
        self._idle = IdleCalls(limits.idle_s)
        self._health = Health(("", _SERVICE.full_name))
        methods = Methods(self._idle, self._calls, Guard(access.tokens))
        for descriptor, servicer in (
            (_SERVICE, service),
            (HEALTH, self._health),
            (_REFLECTION, ReflectionServicer((_SERVICE.full_name, HEALTH.full_name, _REFLECTION.full_name))),
        ):
            methods.add(descriptor, servicer, pools=self._streams, busy_answers={"GetEpochPlan": _BUSY_PLANS})
        self._server = grpc.server(
            self._calls,
            handlers=[methods],
            options=server_options(limits),
            maximum_concurrent_rpcs=sum(pool.max_calls for pool in self._pools),
        )
        try:
            if access.certificates is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, access.certificates.grpc_credentials())
        except RuntimeError as error:
            # What gRPC says is about its own debugging; the reason is in its log, on stderr.
            raise ServerError(
                f"can't listen on --grpc {address}: it is taken, or is not an address of this machine"
            ) from error

    @property
    def _pools(self) -> list[CallPool]:
        return [self._calls, *self._streams.values()]

    @property
    def num_waiting(self) -> int:
        """Calls that wait for a thread."""
        return sum(pool.num_waiting for pool in self._pools)

    @property
    def num_calls(self) -> int:
        """Calls that have a thread or wait for one."""
        return sum(pool.num_calls for pool in self._pools)

    def start(self) -> None:
        """Begins to answer."""
        self._idle.start()
        self._server.start()
        self._health.start()

    def stop(self, grace_s: float) -> bool:
        """Refuses new calls, lets those under way end for `grace_s`, then cancels them; whether all ended."""
        self._health.stop()
        ended = self._server.stop(grace_s).wait(grace_s + 1.0)
        self._idle.stop()
        for pool in self._pools:
            pool.shutdown(wait=False)
        return ended
