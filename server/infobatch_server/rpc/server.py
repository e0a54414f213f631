"""The gRPC server around the service: options, health, reflection, and a port of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from infobatch_server.rpc.service import ScoreService
from infobatch_server.state.limits import Limits
from infobatch_stream.errors import ServerError
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1 import score_service_pb2_grpc as pb_grpc

__all__ = ["GrpcServer", "server_options"]

_SERVICE = pb.DESCRIPTOR.services_by_name["ScoreService"].full_name


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
    ]


class GrpcServer:
    """A gRPC server on one address.

    Args:
        service: answers.
        limits: bounds.
        address: host:port; port 0 takes a free one.

    Raises:
        ServerError: the address can't be bound.
    """

    def __init__(self, service: ScoreService, limits: Limits, address: str) -> None:
        self._pool = ThreadPoolExecutor(limits.worker_threads, thread_name_prefix="grpc")
        self._server = grpc.server(
            self._pool,
            options=server_options(limits),
            maximum_concurrent_rpcs=limits.worker_threads + limits.max_queued_calls,
        )
        pb_grpc.add_ScoreServiceServicer_to_server(service, self._server)
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            # What gRPC says is about its own debugging; the reason is in its log, on stderr.
            raise ServerError(
                f"can't listen on --grpc {address}: it is taken, or is not an address of this machine"
            ) from error

    def start(self) -> None:
        """Begins to answer."""
        self._server.start()
        for service in ("", _SERVICE):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_s: float) -> bool:
        """Refuses new calls, lets those under way end for `grace_s`, then cancels them; whether all ended."""
        self._health.enter_graceful_shutdown()
        ended = self._server.stop(grace_s).wait(grace_s + 1.0)
        self._pool.shutdown(wait=False)
        return ended
