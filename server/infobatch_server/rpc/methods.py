"""A service's methods as gRPC handlers that take and give bytes.

gRPC's own deserialiser answers INTERNAL to a malformed message, hands the service a stream that seems to have ended,
and keeps the call's memory for ever (cygrpc's second status of one call). So messages are parsed here. All four kinds
of methods are registered as streams of messages, which are the same on the wire: gRPC then calls the handler before
the first message, and a client that never sends it can be dealt with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from infobatch_server.rpc.call_pool import CallPool
from infobatch_server.rpc.guard import Guard
from infobatch_server.rpc.idle_calls import ClientWaits, IdleCalls
from infobatch_server.rpc.status import end_with
from infobatch_stream.errors import ConfigError, InfoBatchError, ServerBusyError
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.specs import reject_unknown_fields

__all__ = ["Methods"]

log = logging.getLogger(__name__)

Context = grpc.ServicerContext

_RETRY_S = 1.0
_OWN_PACKAGE = pb.DESCRIPTOR.package


class Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Handlers of all methods that were added, each in its pool.

    Args:
        idle: knows which calls wait for their clients.
        default_pool: processes the methods that are given no other, and refuses calls for full pools.
        guard: knows which calls a token allows.
    """

    def __init__(self, idle: IdleCalls, default_pool: CallPool, guard: Guard) -> None:
        self._idle = idle
        self._guard = guard
        self._default_pool = default_pool
        self._handlers: dict[str, tuple[grpc.RpcMethodHandler[bytes, bytes], CallPool]] = {}
        self._refusals: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        self._methods: dict[str, MethodDescriptor] = {}

    def add(
        self,
        service: ServiceDescriptor,
        servicer: object,
        *,
        pools: Mapping[str, CallPool],
        busy_answers: Mapping[str, Message],
    ) -> None:
        """Adds a service.

        Args:
            service: its descriptor.
            servicer: has a method for each of the service's; those that it lacks are unknown to clients.
            pools: pools by method; the default pool for the others.
            busy_answers: by method, the answer to a call for which its pool has no room; RESOURCE_EXHAUSTED by default.
        """
        for method in service.methods:
            if not hasattr(servicer, method.name):
                continue  # new in the package that the service comes from; gRPC answers UNIMPLEMENTED
            pool = pools.get(method.name, self._default_pool)
            path = f"/{service.full_name}/{method.name}"
            self._handlers[path] = self._handler(method, getattr(servicer, method.name), pool), pool
            self._refusals[path] = self._busy(method, pool, busy_answers.get(method.name))
            self._methods[path] = method

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """The handler for a call; None for an unknown method."""
        found = self._handlers.get(handler_call_details.method)
        if found is None:
            return None
        handler, pool = found
        refused = self._guard.refusal(handler_call_details.method, handler_call_details.invocation_metadata or ())
        if refused is not None:
            return self._refusal(self._methods[handler_call_details.method], refused)
        # gRPC gives the call to the pool right after this, in the same thread.
        if pool is self._default_pool or pool.admits():
            return handler
        return self._refusals[handler_call_details.method]

    def _handler(
        self, method: MethodDescriptor, behaviour: Callable[[object, Context], object], pool: CallPool
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        request_class = GetMessageClass(method.input_type)

        def call(parts: Iterator[bytes], context: Context, waits: ClientWaits) -> object:
            if method.client_streaming:
                return behaviour(_parsed(request_class, parts, waits), context)
            message = _next(request_class, parts, waits)
            if message is None:
                raise ConfigError("the call ended without a request message; send one")
            self._guard.check_request(message, context.invocation_metadata())
            return behaviour(message, context)

        def answer(parts: Iterator[bytes], context: Context) -> bytes:
            try:
                return cast(Message, call(parts, context, self._idle.waits(context, pool))).SerializeToString()
            except Exception as error:
                end_with(context, error)

        def answers(parts: Iterator[bytes], context: Context) -> Iterator[bytes]:
            try:
                waits = self._idle.waits(context, pool)
                for message in cast(Iterator[Message], call(parts, context, waits)):
                    data = message.SerializeToString()
                    waits.begin()
                    try:
                        yield data
                    finally:
                        waits.end(len(data))
            except Exception as error:
                end_with(context, error)

        return _registered(method, answers if method.server_streaming else answer, pool)

    def _busy(
        self, method: MethodDescriptor, pool: CallPool, message: Message | None
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        error = ServerBusyError(
            f"{method.name}: this server has {pool.max_calls} calls of this kind, and takes no more; call again later",
            retry_after_s=_RETRY_S,
        )
        return self._refusal(method, error, message)

    def _refusal(
        self, method: MethodDescriptor, error: InfoBatchError, message: Message | None = None
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A handler that answers with an error, or with a message in its place."""

        def answer(_: Iterator[bytes], context: Context) -> bytes:
            if message is None:
                end_with(context, error)
            return message.SerializeToString()

        def answers(parts: Iterator[bytes], context: Context) -> Iterator[bytes]:
            yield answer(parts, context)

        return _registered(method, answers if method.server_streaming else answer, self._default_pool)


def _parsed(kind: type[Message], parts: Iterator[bytes], waits: ClientWaits) -> Iterator[Message]:
    while (message := _next(kind, parts, waits)) is not None:
        yield message


def _next(kind: type[Message], parts: Iterator[bytes], waits: ClientWaits) -> Message | None:
    data = None
    waits.begin()
    try:
        data = next(parts, None)
    finally:
        waits.end(len(data or b""))
    return None if data is None else _parse(kind, data)


def _registered(
    method: MethodDescriptor, behaviour: Callable[[Iterator[bytes], Context], object], pool: CallPool
) -> grpc.RpcMethodHandler[bytes, bytes]:
    behaviour.experimental_thread_pool = pool  # type: ignore[attr-defined]  # gRPC's name for a method's own threads
    make = grpc.stream_stream_rpc_method_handler if method.server_streaming else grpc.stream_unary_rpc_method_handler
    return cast("grpc.RpcMethodHandler[bytes, bytes]", make(behaviour))


def _parse(kind: type[Message], data: bytes) -> Message:
    try:
        message = kind.FromString(data)
    except Exception as error:  # the implementations of protobuf have no error in common
        log.warning("refused a message of %d bytes that is no %s", len(data), kind.DESCRIPTOR.name)
        raise ConfigError(
            f"{len(data)} bytes are not a valid {kind.DESCRIPTOR.name} ({error}); send messages of "
            f"{kind.DESCRIPTOR.file.package}"
        ) from None
    if kind.DESCRIPTOR.file.package == _OWN_PACKAGE:
        reject_unknown_fields(message)
    return message
