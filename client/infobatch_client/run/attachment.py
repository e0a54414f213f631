"""The attachments of this process, until their leases are given back: an interrupt can't make it forget one."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Sequence

from infobatch_client.rpc.client import ScoreClient
from infobatch_client.rpc.uninterrupted import uninterrupted
from infobatch_stream import errors
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["Attachment", "begin", "left_behind"]

_BEGIN_TIMEOUT_S = 0.5  # of a thread that has been started, if it has
_DETACH_TIMEOUT_S = 2.0
_log = logging.getLogger(__name__)
_begun: list[Attachment] = []


class Attachment:
    """One AttachRun; remembered until its lease is given back, so that the process's next start can do so.

    Args:
        address: the server's.
        run: the run's name.
        request: the call's.
    """

    def __init__(self, address: str, run: str, request: pb.AttachRunRequest) -> None:
        self.request = request
        self._key = (os.getpid(), address, run)
        self._thread = threading.get_ident()
        self._holder: weakref.ref[object] | None = None
        self._ranks: Sequence[int] = range(request.world_size)
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

    def enter(self, holder: object, rank: int) -> None:
        """The run is open, and is held as long as `holder` exists, or until `forget`. Other ranks hold their parts."""
        self._ranks = (rank,)
        self._holder = weakref.ref(holder)

    def leave(self) -> None:
        """Nothing holds the run any more; `forget` follows once the lease is given back."""
        self._holder = weakref.ref(_Nothing())

    def give_back(self, client: ScoreClient, timeout_s: float = _DETACH_TIMEOUT_S) -> bool:
        """Waits for a call that is under way, and detaches if it has attached: every rank, or this one of an open run.

        Args:
            client: of the run's server.
            timeout_s: how long to wait for the call.

        Returns:
            False if the server didn't answer: the process's next start tries again.
        """
        if self._called and self._has_begun.wait(_BEGIN_TIMEOUT_S):
            self._has_ended.wait(timeout_s)
        try:
            generation = self._answer.generation if self._answer is not None else self._lost_generation(client)
            for rank in self._ranks if generation else ():
                request = pb.DetachRunRequest(run_id=self.request.run_id, generation=generation, rank=rank)
                client.detach_run(request, timeout_s=_DETACH_TIMEOUT_S)
        except (errors.TryAgainError, errors.AccessError) as error:
            _log.warning("could not give the run's lease back, it expires by itself: %s", error)
            return False
        except errors.InfoBatchError:
            pass  # the run is gone, or another job's: there is nothing to give back
        self.forget()
        return True

    def forget(self) -> None:
        """The lease was given back, or the call refused."""
        if self in _begun:
            _begun.remove(self)

    def is_left_behind(self) -> bool:
        """Whether nothing holds it: its holder is gone, or the calling thread, which begins another, has left it."""
        return self._thread == threading.get_ident() if self._holder is None else self._holder() is None

    def _lost_generation(self, client: ScoreClient) -> int:
        """What the call got although its answer never came: the server says that this process holds the run."""
        if not self._called or any(other._holder is not None and other._holder() for other in _of(self._key)):
            return 0
        info = client.get_run(pb.GetRunRequest(run_id=self.request.run_id), timeout_s=_DETACH_TIMEOUT_S).run
        own = (self.request.job, self.request.host, self.request.pid)
        return info.generation if (info.job, info.host, info.pid) == own else 0


class _Nothing:
    """A holder that is gone."""


def left_behind(address: str, run: str) -> list[Attachment]:
    """Those of earlier starts that nothing holds, for a run and the server that has it, the newest first."""
    return [attachment for attachment in reversed(_of((os.getpid(), address, run))) if attachment.is_left_behind()]


def begin(attachment: Attachment) -> None:
    """Remembers an attachment, until `forget`."""
    _begun.append(attachment)


def _of(key: tuple[int, str, str]) -> list[Attachment]:
    """A process's, of one run on one server."""
    return [attachment for attachment in _begun.copy() if attachment._key == key]
