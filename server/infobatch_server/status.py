"""From an error to a gRPC status: the one table, and the wrappers that apply it to every call.

The error's class travels as trailing metadata `infobatch-error`, so that a client raises the same one.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import grpc

from infobatch_stream.codec import reject_unknown_fields
from infobatch_stream.errors import (
    ConfigError,
    InfoBatchError,
    PlanError,
    RunBusyError,
    RunConflictError,
    RunNotFoundError,
    ServerError,
    SupersededError,
)

__all__ = ["LeaseHeldError", "OverloadedError", "status_code", "streaming_answer", "unary_answer"]

log = logging.getLogger(__name__)

ERROR_KEY = "infobatch-error"
RETRY_KEY = "infobatch-retry-after-ms"

# Details travel in a header, and a client takes no more than 8 KiB of them, some letters as nine bytes.
_MAX_DETAILS = 1500


class OverloadedError(ServerError):
    """The server has too much in hand; the same call succeeds later."""


class LeaseHeldError(RunBusyError):
    """RunBusyError with the time after which an unrenewed lease is free."""

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


# The first class that an error is an instance of decides.
_CODES: tuple[tuple[type[InfoBatchError], grpc.StatusCode], ...] = (
    (ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
    (PlanError, grpc.StatusCode.INVALID_ARGUMENT),
    (RunNotFoundError, grpc.StatusCode.NOT_FOUND),
    (RunConflictError, grpc.StatusCode.FAILED_PRECONDITION),
    (RunBusyError, grpc.StatusCode.FAILED_PRECONDITION),
    (SupersededError, grpc.StatusCode.ABORTED),
    (OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (ServerError, grpc.StatusCode.FAILED_PRECONDITION),
)

Answer = TypeVar("Answer")


def status_code(error: InfoBatchError) -> grpc.StatusCode:
    """The status that stands for an error."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return grpc.StatusCode.INTERNAL


def unary_answer(
    method: Callable[[Any, Any, grpc.ServicerContext], Answer],
) -> Callable[[Any, Any, grpc.ServicerContext], Answer]:
    """Wraps a method with one answer: refuses unknown fields of its request, turns errors into statuses."""

    @functools.wraps(method)
    def answer(service: Any, request: Any, context: grpc.ServicerContext) -> Answer:
        try:
            return method(service, _checked(request), context)
        except Exception as error:
            _abort(context, error)

    return answer


def streaming_answer(
    method: Callable[[Any, Any, grpc.ServicerContext], Iterator[Answer]],
) -> Callable[[Any, Any, grpc.ServicerContext], Iterator[Answer]]:
    """`unary_answer` for a method that answers with a stream."""

    @functools.wraps(method)
    def answer(service: Any, request: Any, context: grpc.ServicerContext) -> Iterator[Answer]:
        try:
            yield from method(service, _checked(request), context)
        except Exception as error:
            _abort(context, error)

    return answer


def _checked(request: Any) -> Any:
    """The request, or its stream of messages, each refused where it has fields that this server doesn't know."""
    if hasattr(request, "DESCRIPTOR"):
        reject_unknown_fields(request)
        return request
    return _checked_stream(request)


def _checked_stream(messages: Iterator[Any]) -> Iterator[Any]:
    for message in messages:
        reject_unknown_fields(message)
        yield message


def _abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    if isinstance(error, grpc.RpcError):
        # The request stream broke off: the caller is gone, and there is nobody to answer.
        context.abort(grpc.StatusCode.CANCELLED, "the caller went away")
    if not isinstance(error, InfoBatchError):
        log.exception("a call failed", exc_info=error)
        context.abort(grpc.StatusCode.INTERNAL, "internal error of the server; its log has the traceback")
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == InfoBatchError.__module__)
    metadata = [(ERROR_KEY, kind)]
    if isinstance(error, LeaseHeldError):
        metadata.append((RETRY_KEY, str(error.retry_after_ms)))
    context.set_trailing_metadata(tuple(metadata))
    context.abort(status_code(error), _shortened(str(error)))


def _shortened(details: str) -> str:
    return details if len(details) <= _MAX_DETAILS else details[: _MAX_DETAILS - 1] + "…"
