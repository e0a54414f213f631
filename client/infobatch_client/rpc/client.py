"""Calls to a score server: one channel per process, a deadline on every call, and errors in this project's words."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

import grpc

from infobatch_stream import errors
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1 import score_service_pb2_grpc as pb_grpc
from infobatch_stream.wire.errors import error_from_status

__all__ = ["ScoreClient", "retry_until"]

_CHANNEL_OPTIONS = (
    ("grpc.max_reconnect_backoff_ms", 2000),  # else a long outage is noticed to have ended up to 2 minutes late
    ("grpc.enable_http_proxy", 0),  # else loopback goes through a proxy where one is set
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", 16 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
)

T = TypeVar("T")


class ScoreClient:
    """A score server's rpcs, by name. Safe to call from several threads; a forked child gets a channel of its own.

    Args:
        address: "HOST:PORT".
        call_timeout_s: deadline of a call that gives none.

    Raises:
        ServerUnreachableError, ServerBusyError: from any call: no answer in time, or too much to do; trying again may
            help.
        RunNotFoundError, RunConflictError, RunBusyError, SupersededError, ConfigError: from any call: the server's
            answer, with its words.
    """

    def __init__(self, address: str, *, call_timeout_s: float = 10.0) -> None:
        self.address = address
        self._call_timeout_s = call_timeout_s
        self._pid = -1
        self._closed = False
        self._channel: grpc.Channel | None = None
        self._made: pb_grpc.ScoreServiceStub

    def call(self, rpc: str, request: Any, *, timeout_s: float | None = None) -> Any:
        """One request (or, for a client-streaming rpc, an iterable of them), one answer."""
        try:
            return getattr(self._stub(), rpc)(request, timeout=timeout_s or self._call_timeout_s)
        except grpc.RpcError as error:
            self._raise(rpc, error)

    def stream(self, rpc: str, request: Any, *, timeout_s: float | None = None) -> Iterator[Any]:
        """One request, a stream of answers."""
        try:
            yield from getattr(self._stub(), rpc)(request, timeout=timeout_s or self._call_timeout_s)
        except grpc.RpcError as error:
            self._raise(rpc, error)

    def wait_until_up(self, timeout_s: float) -> pb.GetServerResponse:
        """The server's word about itself, as soon as it answers.

        Raises:
            ServerUnreachableError: it didn't within `timeout_s`.
        """
        try:
            answer: pb.GetServerResponse = retry_until(
                lambda left: self.call("GetServer", pb.GetServerRequest(), timeout_s=min(left, self._call_timeout_s)),
                timeout_s,
            )
        except errors.TryAgainError as error:
            raise errors.ServerUnreachableError(
                f"no score server answered at url={self.address!r} within {timeout_s:g} s ({error}); is the address "
                f"right, and `infobatch serve --grpc {self.address}` running there?"
            ) from None
        return answer

    def create_run(self, requests: Callable[[], Iterable[pb.CreateRunRequest]]) -> pb.CreateRunResponse:
        """CreateRun; `requests` is called for each try."""
        answer: pb.CreateRunResponse = self.call("CreateRun", iter(requests()), timeout_s=6 * self._call_timeout_s)
        return answer

    def close(self) -> None:
        """Closes the channel, if this process made it."""
        if self._channel is not None and self._pid == os.getpid():
            self._closed = True
            self._channel.close()
            self._channel = None

    def __getstate__(self) -> dict[str, Any]:
        kept = {"address": self.address, "_call_timeout_s": self._call_timeout_s}
        return {**kept, "_pid": -1, "_closed": False, "_channel": None}

    def _stub(self) -> pb_grpc.ScoreServiceStub:
        if self._closed and self._pid == os.getpid():
            raise errors.ServerUnreachableError(f"the connection to {self.address} is closed")
        if self._pid != os.getpid() or self._channel is None:
            self._channel = grpc.insecure_channel(self.address, options=_CHANNEL_OPTIONS)
            self._made = pb_grpc.ScoreServiceStub(self._channel)  # type: ignore[no-untyped-call]
            self._pid = os.getpid()
        return self._made

    def _raise(self, rpc: str, error: grpc.RpcError) -> NoReturn:
        metadata = {item.key: str(item.value) for item in error.trailing_metadata() or ()}
        raise error_from_status(
            error.code(), error.details() or "", metadata, call=f"{rpc} at {self.address}"
        ) from None


def retry_until(attempt: Callable[[float], T], timeout_s: float, *, pause_s: float = 0.2) -> T:
    """What `attempt(seconds left)` gives, tried again after TryAgainError until time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return attempt(max(0.05, deadline - time.monotonic()))
        except errors.TryAgainError:
            if time.monotonic() + pause_s >= deadline:
                raise
        time.sleep(pause_s)
        pause_s = min(2.0, 1.5 * pause_s)
