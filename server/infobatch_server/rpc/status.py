"""Ends a call with the status that an error stands for."""

from __future__ import annotations

import logging
import secrets
import traceback
from typing import NoReturn

import grpc

from infobatch_stream.errors import InfoBatchError
from infobatch_stream.wire.errors import error_metadata, status_code

__all__ = ["end_with"]

log = logging.getLogger(__name__)

# Details travel in a header, and a client takes no more than 8 KiB of them, some letters as nine bytes.
_MAX_DETAILS = 1500
_MAX_PLACES = 256

_logged_places: set[tuple[str, int]] = set()


def end_with(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    """Ends the call with the status of an error.

    A defect of the server is INTERNAL. Its traceback is logged once for each line of code that it comes from; every
    answer has an id that the log has too.
    """
    if isinstance(error, grpc.RpcError):
        # The request stream broke off: the caller has ended, and nobody receives an answer.
        context.abort(grpc.StatusCode.CANCELLED, "the caller went away")
    if not isinstance(error, InfoBatchError):
        error_id = secrets.token_hex(4)
        _log_defect(error, error_id)
        context.abort(
            grpc.StatusCode.INTERNAL,
            f"internal error of the server; its log has the traceback under {error_id}",
        )
    context.set_trailing_metadata(error_metadata(error))
    context.abort(status_code(error), _shortened(str(error)))


def _log_defect(error: Exception, error_id: str) -> None:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = (last[0].filename, last[0].lineno or 0) if last else (type(error).__name__, 0)
    is_new = place not in _logged_places and len(_logged_places) < _MAX_PLACES
    if is_new:
        _logged_places.add(place)
    log.error("internal error %s: a call failed at %s:%d", error_id, *place, exc_info=error if is_new else None)


def _shortened(details: str) -> str:
    return details if len(details) <= _MAX_DETAILS else details[: _MAX_DETAILS - 1] + "…"
