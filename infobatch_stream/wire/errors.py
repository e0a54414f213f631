"""Errors as gRPC statuses, and statuses as errors: the one table that server and client share.

The class of an error travels as trailing metadata, so that the client raises the same one. If the metadata is missing,
or names a class that this version doesn't have, the status code decides.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from infobatch_stream import errors

__all__ = ["ERROR_KEY", "RETRY_AFTER_KEY", "error_from_status", "error_metadata", "status_code"]

ERROR_KEY = "infobatch-error"
"""Trailing metadata: the name of the error's class."""

RETRY_AFTER_KEY = "infobatch-retry-after-ms"
"""Trailing metadata: with RunBusyError, the time until the lease expires unless its job calls again; with
ServerBusyError, when to call again."""

# The first class that an error is an instance of decides.
_CODES: tuple[tuple[type[errors.InfoBatchError], grpc.StatusCode], ...] = (
    (errors.ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.PlanError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.RunNotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.RunConflictError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.RunBusyError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.SupersededError, grpc.StatusCode.ABORTED),
    (errors.ServerBusyError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (errors.PermissionDeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.TryAgainError, grpc.StatusCode.UNAVAILABLE),
    (errors.ServerError, grpc.StatusCode.FAILED_PRECONDITION),
)

_KINDS: Mapping[grpc.StatusCode, type[errors.InfoBatchError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.ConfigError,
    grpc.StatusCode.OUT_OF_RANGE: errors.ConfigError,
    grpc.StatusCode.NOT_FOUND: errors.RunNotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.RunConflictError,
    grpc.StatusCode.ABORTED: errors.SupersededError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDeniedError,
    grpc.StatusCode.UNAVAILABLE: errors.ServerUnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.ServerUnreachableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ServerBusyError,
    grpc.StatusCode.CANCELLED: errors.ServerUnreachableError,  # the server has cut off a call that stood still
}


def status_code(error: errors.InfoBatchError) -> grpc.StatusCode:
    """The status that stands for an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def error_metadata(error: errors.InfoBatchError) -> tuple[tuple[str, str], ...]:
    """The trailing metadata that goes with the status of an error."""
    name = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    if isinstance(error, errors.RunBusyError | errors.ServerBusyError) and error.retry_after_s:
        return (ERROR_KEY, name), (RETRY_AFTER_KEY, str(max(1, int(1000 * error.retry_after_s))))
    return ((ERROR_KEY, name),)


def error_from_status(
    code: grpc.StatusCode, details: str, metadata: Mapping[str, str], *, call: str
) -> errors.InfoBatchError:
    """The error that a status stands for.

    Args:
        code: the status.
        details: the server's message, or gRPC's own.
        metadata: the trailing metadata.
        call: "RPC at HOST:PORT", for an error that the server may not have raised itself.
    """
    name = metadata.get(ERROR_KEY, "")
    if not name and code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return errors.ConfigError(f"{call}: the request is too large for the server: {details}")  # gRPC's own answer
    if not name and code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.ServerError(f"{call}: no such call there: it is no score server, or one of another version")
    kind: type[errors.InfoBatchError] = (
        getattr(errors, name) if name in errors.__all__ else _KINDS.get(code, errors.ServerError)
    )
    if issubclass(kind, errors.TryAgainError) or (not name and kind is not errors.RunBusyError):
        details = f"{call}: {code.name}: {details}"
    if issubclass(kind, errors.RunBusyError | errors.ServerBusyError):
        return kind(details, retry_after_s=int(metadata.get(RETRY_AFTER_KEY, 0)) / 1000)
    error = kind(details)
    if isinstance(error, errors.ServerUnreachableError):
        error.timed_out = code is grpc.StatusCode.DEADLINE_EXCEEDED
    return error
