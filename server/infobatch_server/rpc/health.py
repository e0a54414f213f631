"""The health service, grpc.health.v1, for orchestrators."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from infobatch_stream.errors import RunNotFoundError

__all__ = ["SERVICE", "Health"]

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"]

_LOOK_S = 5.0


class Health:
    """Says of a fixed set of services whether they are served; all of them start and stop together.

    grpc_health's own servicer keeps every name that a client has ever watched.

    Args:
        services: names; "" stands for the whole server.
    """

    def __init__(self, services: tuple[str, ...]) -> None:
        self._services = services
        self._changed = threading.Condition()
        self._is_serving = False
        self._is_stopped = False

    def start(self) -> None:
        """All services are served from now on."""
        with self._changed:
            self._is_serving = True
            self._changed.notify_all()

    def stop(self) -> None:
        """No service is served any more; ends the watches."""
        with self._changed:
            self._is_serving, self._is_stopped = False, True
            self._changed.notify_all()

    def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """The state of a service."""
        if request.service not in self._services:
            raise RunNotFoundError(f"this server has no service {request.service[:128]!r}")
        return self._state(request.service)

    def List(self, request: Message, context: grpc.ServicerContext) -> Message:
        """The states of all services. Older versions of grpc_health know neither the call nor its messages."""
        answer: Message = health_pb2.HealthListResponse(
            statuses={service: self._state(service) for service in self._services}
        )
        return answer

    def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        """The state of a service, and every change of it."""
        context.add_callback(self._wake)
        told = None
        while context.is_active():
            with self._changed:
                state, is_last = self._state(request.service), self._is_stopped
                if state == told and not is_last:
                    self._changed.wait(_LOOK_S)
                    continue
            if state != told:
                told = state
                yield state
            if is_last:
                return

    def _state(self, service: str) -> health_pb2.HealthCheckResponse:
        if service not in self._services:
            return health_pb2.HealthCheckResponse(status="SERVICE_UNKNOWN")
        return health_pb2.HealthCheckResponse(status="SERVING" if self._is_serving else "NOT_SERVING")

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
