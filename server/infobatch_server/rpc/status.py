"""The wrappers of every call: they refuse unknown fields of a request, and turn errors into statuses."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import grpc

from infobatch_stream.errors import InfoBatchError
from infobatch_stream.wire.errors import error_metadata, status_code
from infobatch_stream.wire.specs import reject_unknown_fields

__all__ = ["streaming_answer", "unary_answer"]

log = logging.getLogger(__name__)

# Details travel in a header, and a client takes no more than 8 KiB of them, some letters as nine bytes.
_MAX_DETAILS = 1500


Answer = TypeVar("Answer")


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
    context.set_trailing_metadata(error_metadata(error))
    context.abort(status_code(error), _shortened(str(error)))


def _shortened(details: str) -> str:
    return details if len(details) <= _MAX_DETAILS else details[: _MAX_DETAILS - 1] + "…"
