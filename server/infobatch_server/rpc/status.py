"""The wrappers of every call: they refuse unknown fields of a request, and turn errors into statuses.

They are named as gRPC names the kinds of calls: `unary_stream` takes one message and answers with a stream of them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

import grpc
from google.protobuf.message import Message

from infobatch_stream.errors import InfoBatchError
from infobatch_stream.wire.errors import error_metadata, status_code
from infobatch_stream.wire.specs import reject_unknown_fields

__all__ = ["stream_unary", "unary_stream", "unary_unary"]

log = logging.getLogger(__name__)

# Details travel in a header, and a client takes no more than 8 KiB of them, some letters as nine bytes.
_MAX_DETAILS = 1500

Service = TypeVar("Service")
Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer")
Method = Callable[[Service, Request, grpc.ServicerContext], Answer]


def unary_unary(method: Method[Service, Request, Answer]) -> Method[Service, Request, Answer]:
    """Wraps a method that takes one message and answers with one."""

    @functools.wraps(method)
    def answer(service: Service, request: Request, context: grpc.ServicerContext) -> Answer:
        try:
            reject_unknown_fields(request)
            return method(service, request, context)
        except Exception as error:
            _abort(context, error)

    return answer


def unary_stream(method: Method[Service, Request, Iterator[Answer]]) -> Method[Service, Request, Iterator[Answer]]:
    """Wraps a method that takes one message and answers with a stream."""

    @functools.wraps(method)
    def answer(service: Service, request: Request, context: grpc.ServicerContext) -> Iterator[Answer]:
        try:
            reject_unknown_fields(request)
            yield from method(service, request, context)
        except Exception as error:
            _abort(context, error)

    return answer


def stream_unary(
    method: Callable[[Service, Iterator[Request], grpc.ServicerContext], Answer],
) -> Callable[[Service, Iterator[Request], grpc.ServicerContext], Answer]:
    """Wraps a method that takes a stream of messages and answers with one."""

    @functools.wraps(method)
    def answer(service: Service, requests: Iterator[Request], context: grpc.ServicerContext) -> Answer:
        try:
            return method(service, _checked(requests), context)
        except Exception as error:
            _abort(context, error)

    return answer


def _checked(messages: Iterator[Request]) -> Iterator[Request]:
    for message in messages:
        reject_unknown_fields(message)
        yield message


def _abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    if isinstance(error, grpc.RpcError):
        # The request stream broke off: the caller has ended, and nobody receives an answer.
        context.abort(grpc.StatusCode.CANCELLED, "the caller went away")
    if not isinstance(error, InfoBatchError):
        log.exception("a call failed", exc_info=error)
        context.abort(grpc.StatusCode.INTERNAL, "internal error of the server; its log has the traceback")
    context.set_trailing_metadata(error_metadata(error))
    context.abort(status_code(error), _shortened(str(error)))


def _shortened(details: str) -> str:
    return details if len(details) <= _MAX_DETAILS else details[: _MAX_DETAILS - 1] + "…"
