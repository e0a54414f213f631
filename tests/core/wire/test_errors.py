"""Statuses that the server itself doesn't send."""

import grpc
import pytest

from infobatch_stream.errors import ConfigError, ServerBusyError
from infobatch_stream.wire.errors import ERROR_KEY, error_from_status


@pytest.mark.parametrize(
    ("details", "metadata", "kind"),
    [
        ("Received message larger than max (5000000 vs. 4194304)", {}, ConfigError),
        ("the disk is full", {}, ServerBusyError),
        ("a table larger than max-bytes", {ERROR_KEY: "ServerBusyError"}, ServerBusyError),
    ],
)
def test_a_request_that_is_too_large_is_never_sent_again(details, metadata, kind):
    error = error_from_status(grpc.StatusCode.RESOURCE_EXHAUSTED, details, metadata, call="PushScores at x:1")
    assert type(error) is kind
    assert details in str(error)
