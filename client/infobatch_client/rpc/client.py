"""Calls to a score server: one channel per process, a deadline on every call, and errors in this project's words."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, TypeVar

import grpc
from google.protobuf.message import Message

from infobatch_client.rpc import forks
from infobatch_client.rpc.credentials import Credentials
from infobatch_client.rpc.first_contact import FirstContact
from infobatch_client.rpc.uninterrupted import uninterrupted
from infobatch_stream import errors
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1 import score_service_pb2_grpc as pb_grpc
from infobatch_stream.wire.errors import error_from_status

__all__ = ["ScoreClient", "retry_until"]

_CHANNEL_OPTIONS = (
    ("grpc.max_reconnect_backoff_ms", 1000),  # else a long outage is noticed to have ended up to 2 minutes late
    ("grpc.enable_http_proxy", 0),  # else a proxy, if one is set, gets the calls to loopback too
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", 16 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
)
_STREAMED_REQUEST_FACTOR = 6  # a stream of requests may hold a whole mask or score table

Stub = pb_grpc.ScoreServiceStub
T = TypeVar("T")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class ScoreClient:
    """A score server's rpcs, one method each: a request message in, the response message out.

    Safe to call from several threads; a forked child gets a channel of its own.

    Args:
        address: "HOST:PORT", or "grpcs://HOST:PORT" for TLS.
        call_timeout_s: deadline of a call that sets none with `timeout_s=`.
        credentials: what is shown to the server, and whom this client trusts.

    Raises:
        ConfigError: on construction: credentials that aren't for this address.
        AccessError: from any call: the server refuses this caller.
        ServerUnreachableError, ServerBusyError: from any call: no answer in time, or the server is overloaded; the
            same call may succeed later.
        RunNotFoundError, RunConflictError, RunBusyError, SupersededError, ConfigError: from any call: the server's
            answer, with its words.
    """

    def __init__(
        self,
        address: str,
        *,
        call_timeout_s: float = 10.0,
        credentials: Credentials = Credentials(),  # noqa: B008 - immutable
    ) -> None:
        credentials.check_for(address)
        self.address = address
        self._credentials = credentials
        self._call_timeout_s = call_timeout_s
        self._pid = -1
        self._closed = False
        self._channel: grpc.Channel | None = None
        self._stamp: tuple[int | None, ...] = ()
        self._channel_stub: Stub

    def create_run(
        self, requests: Iterable[pb.CreateRunRequest], *, timeout_s: float | None = None
    ) -> pb.CreateRunResponse:
        """Creates a run, or joins it if its spec is the same."""
        return self._stream_unary("CreateRun", lambda stub: stub.CreateRun, requests, timeout_s)

    def attach_run(self, request: pb.AttachRunRequest, *, timeout_s: float | None = None) -> pb.AttachRunResponse:
        """Takes the run's lease for a job, with the next generation."""
        return self._unary(lambda stub: stub.AttachRun, request, timeout_s)

    def detach_run(self, request: pb.DetachRunRequest, *, timeout_s: float | None = None) -> pb.DetachRunResponse:
        """Gives back one rank's part of the lease."""
        return self._unary(lambda stub: stub.DetachRun, request, timeout_s)

    def heartbeat(self, request: pb.HeartbeatRequest, *, timeout_s: float | None = None) -> pb.HeartbeatResponse:
        """Renews the lease."""
        return self._unary(lambda stub: stub.Heartbeat, request, timeout_s)

    def get_epoch_plan(
        self, request: pb.GetEpochPlanRequest, *, timeout_s: float | None = None
    ) -> Iterator[pb.GetEpochPlanResponse]:
        """Streams an epoch's plan, or the one message that it isn't ready."""
        return self._unary_stream(lambda stub: stub.GetEpochPlan, request, timeout_s)

    def push_scores(self, request: pb.PushScoresRequest, *, timeout_s: float | None = None) -> pb.PushScoresResponse:
        """Stores scores."""
        return self._unary(lambda stub: stub.PushScores, request, timeout_s)

    def end_epoch(self, request: pb.EndEpochRequest, *, timeout_s: float | None = None) -> pb.EndEpochResponse:
        """Says that one rank has pushed all scores of an epoch."""
        return self._unary(lambda stub: stub.EndEpoch, request, timeout_s)

    def mark_unpruned(
        self, request: pb.MarkUnprunedRequest, *, timeout_s: float | None = None
    ) -> pb.MarkUnprunedResponse:
        """Says that the job trains an epoch unpruned."""
        return self._unary(lambda stub: stub.MarkUnpruned, request, timeout_s)

    def read_scores(
        self, request: pb.ReadScoresRequest, *, timeout_s: float | None = None
    ) -> Iterator[pb.ReadScoresResponse]:
        """Streams a range of the score table."""
        return self._unary_stream(lambda stub: stub.ReadScores, request, timeout_s)

    def seed_run(self, requests: Iterable[pb.SeedRunRequest], *, timeout_s: float | None = None) -> pb.SeedRunResponse:
        """Imports scores and a plan into a run that no job holds."""
        return self._stream_unary("SeedRun", lambda stub: stub.SeedRun, requests, timeout_s)

    def amend_run(self, request: pb.AmendRunRequest, *, timeout_s: float | None = None) -> pb.AmendRunResponse:
        """Changes a run's number of epochs and δ."""
        return self._unary(lambda stub: stub.AmendRun, request, timeout_s)

    def get_server(self, request: pb.GetServerRequest, *, timeout_s: float | None = None) -> pb.GetServerResponse:
        """The server's nonce, versions and limits."""
        return self._unary(lambda stub: stub.GetServer, request, timeout_s)

    def get_run(self, request: pb.GetRunRequest, *, timeout_s: float | None = None) -> pb.GetRunResponse:
        """One run's spec and state."""
        return self._unary(lambda stub: stub.GetRun, request, timeout_s)

    def list_runs(self, request: pb.ListRunsRequest, *, timeout_s: float | None = None) -> pb.ListRunsResponse:
        """The spec and state of every run."""
        return self._unary(lambda stub: stub.ListRuns, request, timeout_s)

    def delete_run(self, request: pb.DeleteRunRequest, *, timeout_s: float | None = None) -> pb.DeleteRunResponse:
        """Deletes a run."""
        return self._unary(lambda stub: stub.DeleteRun, request, timeout_s)

    def forget_drops(self, request: pb.ForgetDropsRequest, *, timeout_s: float | None = None) -> pb.ForgetDropsResponse:
        """Forgets which samples a run's pipeline dropped: later plans have them again."""
        return self._unary(lambda stub: stub.ForgetDrops, request, timeout_s)

    def wait_until_up(self, timeout_s: float) -> pb.GetServerResponse:
        """The answer of GetServer, as soon as the server gives one; a line of log after 2 s says why it doesn't yet.

        Raises:
            ServerUnreachableError: it gave none within `timeout_s`.
            ServerBusyError: it is there, and was overloaded all the time.
            ConfigError: at once: a program that is no score server listens there.
        """
        contact = FirstContact(self.address, timeout_s, self._credentials)

        def attempt(left_s: float) -> pb.GetServerResponse:
            try:
                limit_s = min(left_s, self._call_timeout_s, contact.call_timeout_s)
                return self.get_server(pb.GetServerRequest(), timeout_s=limit_s)
            except errors.TryAgainError as error:
                contact.failed(error)
                raise

        try:
            return retry_until(attempt, timeout_s)
        except errors.ServerUnreachableError as error:
            raise errors.ServerUnreachableError(
                f"no score server answered at url={self.address!r} within {timeout_s:g} s ({contact.reason or error}); "
                f"is the address right, and `infobatch serve --grpc {self.address}` running there?"
            ) from None

    def move_to(self, address: str, credentials: Credentials) -> None:
        """Calls another address from now on, where the server has come back; calls under way end by themselves."""
        if address != self.address:
            self.address, self._channel = address, None
        self._credentials = credentials

    def close(self) -> None:
        """Closes the channel, if this process opened it."""
        if self._channel is not None and self._pid == os.getpid():
            self._closed = True
            channel, self._channel = self._channel, None
            uninterrupted(channel.close)

    def __getstate__(self) -> dict[str, object]:
        settings = {"address": self.address, "_call_timeout_s": self._call_timeout_s, "_credentials": self._credentials}
        return {**settings, "_pid": -1, "_closed": False, "_channel": None, "_stamp": ()}

    def _unary(
        self,
        choose: Callable[[Stub], grpc.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        timeout_s: float | None,
    ) -> Response:
        try:
            return _apart(
                lambda: choose(self._stub())(
                    request, timeout=timeout_s or self._call_timeout_s, metadata=self._credentials.metadata()
                )
            )
        except grpc.RpcError as error:
            self._raise(_rpc_name(request), error)

    def _unary_stream(
        self,
        choose: Callable[[Stub], grpc.UnaryStreamMultiCallable[Request, Response]],
        request: Request,
        timeout_s: float | None,
    ) -> Iterator[Response]:
        try:
            answers: Iterator[Response] = _apart(
                lambda: iter(
                    choose(self._stub())(
                        request, timeout=timeout_s or self._call_timeout_s, metadata=self._credentials.metadata()
                    )
                )
            )
            while (answer := _apart(lambda: next(answers, None))) is not None:
                yield answer
        except grpc.RpcError as error:
            self._raise(_rpc_name(request), error)

    def _stream_unary(
        self,
        rpc: str,
        choose: Callable[[Stub], grpc.StreamUnaryMultiCallable[Request, Response]],
        requests: Iterable[Request],
        timeout_s: float | None,
    ) -> Response:
        timeout_s = timeout_s or _STREAMED_REQUEST_FACTOR * self._call_timeout_s
        try:
            return _apart(
                lambda: choose(self._stub())(iter(requests), timeout=timeout_s, metadata=self._credentials.metadata())
            )
        except grpc.RpcError as error:
            self._raise(rpc, error)

    def _stub(self) -> Stub:
        if self._closed and self._pid == os.getpid():
            raise errors.ServerUnreachableError(f"the connection to {self.address} is closed")
        if self._pid != os.getpid() or self._channel is None:
            self._stamp = self._credentials.stamp()
            self._channel = self._credentials.channel(self.address, _CHANNEL_OPTIONS)
            self._channel_stub = Stub(self._channel)
            self._pid = os.getpid()
        return self._channel_stub

    def _raise(self, rpc: str, error: grpc.RpcError) -> NoReturn:
        metadata = {item.key: str(item.value) for item in error.trailing_metadata() or ()}
        raised = error_from_status(error.code(), error.details() or "", metadata, call=f"{rpc} at {self.address}")
        if isinstance(raised, errors.ServerUnreachableError) and self._credentials.stamp() != self._stamp:
            self._channel = None  # the next call's has the certificates that are there now
        if isinstance(raised, errors.AccessError):
            raised = type(raised)(f"{self.address}: {raised}; {self._credentials.remedy}")
        raise raised from None


def retry_until(
    attempt: Callable[[float], T],
    timeout_s: float,
    *,
    pause_s: float = 0.2,
    on: type[errors.ServerError] | tuple[type[errors.ServerError], ...] = errors.TryAgainError,
) -> T:
    """The result of `attempt(seconds left)`, which is tried again after an error of kind `on` until time is up.

    The pause is the server's `retry_after_s`, if the error has one.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return attempt(max(0.05, deadline_s - time.monotonic()))
        except on as error:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise
            asked_s = getattr(error, "retry_after_s", 0.0)
        time.sleep(min(asked_s or pause_s, left_s))
        pause_s = min(2.0, 1.5 * pause_s)


def _apart(call: Callable[[], T]) -> T:
    """The result of a call of gRPC's, kept apart from Ctrl-C and from forks."""

    def kept() -> T:
        with forks.call():
            return call()

    return uninterrupted(kept)


def _rpc_name(request: Message) -> str:
    """Each rpc's request is named after it."""
    return type(request).__name__.removesuffix("Request")
