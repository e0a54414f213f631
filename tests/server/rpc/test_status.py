"""Every error has a status, and a client can tell which error it was."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from infobatch_server.rpc.status import end_with
from infobatch_stream import errors
from infobatch_stream.wire.errors import status_code


class Ended(Exception):
    """What `abort` raises."""


class Context:
    """Remembers how a call ended."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}
        self.ending: tuple[grpc.StatusCode, str] | None = None

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self.metadata = dict(metadata)

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.ending = code, details
        raise Ended


def ending_of(error: Exception) -> Context:
    context: Any = Context()
    with pytest.raises(Ended):
        end_with(context, error)
    return context  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (errors.ConfigError("x"), grpc.StatusCode.INVALID_ARGUMENT, "ConfigError"),
        (errors.StateError("x"), grpc.StatusCode.INVALID_ARGUMENT, "StateError"),
        (errors.PlanError("x"), grpc.StatusCode.INVALID_ARGUMENT, "PlanError"),
        (errors.RunNotFoundError("x"), grpc.StatusCode.NOT_FOUND, "RunNotFoundError"),
        (errors.RunConflictError("x"), grpc.StatusCode.FAILED_PRECONDITION, "RunConflictError"),
        (errors.SupersededError("x"), grpc.StatusCode.ABORTED, "SupersededError"),
        (errors.RunBusyError("x", 0.007), grpc.StatusCode.FAILED_PRECONDITION, "RunBusyError"),
        (errors.ServerBusyError("x"), grpc.StatusCode.RESOURCE_EXHAUSTED, "ServerBusyError"),
    ],
)
def test_an_error_ends_the_call_with_its_status_and_class(
    error: errors.InfoBatchError, code: grpc.StatusCode, kind: str
) -> None:
    context = ending_of(error)
    assert context.ending == (code, "x")
    assert context.metadata["infobatch-error"] == kind


def test_every_error_of_the_tree_has_a_status() -> None:
    kinds = [kind for name in errors.__all__ if (kind := getattr(errors, name)) is not errors.InfoBatchError]
    server_kinds = [kind for kind in kinds if issubclass(kind, errors.ServerError | errors.ConfigError)]
    assert all(status_code(kind("x")) is not grpc.StatusCode.INTERNAL for kind in server_kinds)


def test_details_fit_into_a_header() -> None:
    context = ending_of(errors.ConfigError("…" * 10_000))
    assert context.ending is not None
    assert len(context.ending[1]) == 1500
    assert context.ending[1].endswith("…")


def test_a_caller_that_went_away_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    context = ending_of(grpc.RpcError())
    assert context.ending is not None
    assert context.ending[0] == grpc.StatusCode.CANCELLED
    assert not caplog.text
