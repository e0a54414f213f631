"""An attachment that this process has begun: it is known here even if Ctrl-C ended the wait for the server's answer."""

from __future__ import annotations

import logging
import os
import threading

from infobatch_client.rpc.client import ScoreClient
from infobatch_client.rpc.uninterrupted import uninterrupted
from infobatch_stream import errors
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["Attachment", "begin", "left_behind"]

_BEGIN_TIMEOUT_S = 0.5  # of a thread that has been started, if it has
_DETACH_TIMEOUT_S = 2.0
_log = logging.getLogger(__name__)
_begun: dict[tuple[int, str, str], Attachment] = {}  # (process, server, run)


class Attachment:
    """One AttachRun, until the run is open; remembered, so that the process's next start can give its lease back.

    Args:
        address: the server's.
        run: the run's name.
        request: its nonce is replaced by the one of a call before it whose answer was lost.
    """

    def __init__(self, address: str, run: str, request: pb.AttachRunRequest) -> None:
        self.request = request
        self._key = (os.getpid(), address, run)
        self._thread = threading.get_ident()
        self._called = False
        self._answer: pb.AttachRunResponse | None = None
        self._has_begun = threading.Event()
        self._has_ended = threading.Event()

    def call(self, client: ScoreClient) -> pb.AttachRunResponse:
        """Calls the server. If an interrupt ends the wait, the answer is kept for `give_back`."""

        def call() -> pb.AttachRunResponse:
            self._has_begun.set()
            try:
                self._answer = client.attach_run(self.request)
                return self._answer
            finally:
                self._has_ended.set()

        self._has_begun.clear()
        self._has_ended.clear()
        self._called = True
        return uninterrupted(call)

    def give_back(self, client: ScoreClient, timeout_s: float = _DETACH_TIMEOUT_S) -> None:
        """Waits for a call that is under way, and detaches every rank if it has attached.

        Args:
            client: of the run's server.
            timeout_s: how long to wait for the call.
        """
        if self._called and self._has_begun.wait(_BEGIN_TIMEOUT_S):
            self._has_ended.wait(timeout_s)
        if self._answer is None:
            return
        for rank in range(self.request.world_size):
            generation = self._answer.generation
            request = pb.DetachRunRequest(run_id=self.request.run_id, generation=generation, rank=rank)
            try:
                client.detach_run(request, timeout_s=_DETACH_TIMEOUT_S)
            except (errors.TryAgainError, errors.AccessError) as error:
                _log.warning("could not give the run's lease back, it expires by itself: %s", error)
                return  # the next start tries again
            except errors.InfoBatchError:
                break  # the run is gone, or another job's: there is nothing to give back
        self.forget()

    def forget(self) -> None:
        """The run is open, or its lease given back."""
        if _begun.get(self._key) is self:
            del _begun[self._key]

    def is_left_behind(self) -> bool:
        """Whether the calling thread has begun it: a thread that begins another one has left the first."""
        return self._thread == threading.get_ident()

    def repeat_if_same(self, before: Attachment) -> None:
        """Becomes the same call as one before it, if that asked for the same and its answer was lost."""
        request = pb.AttachRunRequest()
        request.CopyFrom(self.request)
        request.nonce = before.request.nonce
        if before._answer is None and request == before.request:
            self.request = request


def left_behind(address: str, run: str) -> Attachment | None:
    """What an earlier start of the calling thread has left, for a run and the server that has it."""
    found = _begun.get((os.getpid(), address, run))
    return found if found is not None and found.is_left_behind() else None


def begin(attachment: Attachment) -> None:
    """Remembers an attachment, until `forget`."""
    _begun[attachment._key] = attachment
