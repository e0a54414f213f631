"""How a job joins its run: creates it, or checks that it is the same, and attaches; waits for an expiring lease.

One rank does so, and passes the result on to the others.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from infobatch_client.ranks.launcher import Job, this_job
from infobatch_client.rpc.client import ScoreClient, retry_until
from infobatch_client.run.attachment import Attachment, begin, left_behind
from infobatch_client.run.options import RunOptions
from infobatch_client.run.resume_state import ResumeState
from infobatch_stream.errors import (
    InfoBatchError,
    RunBusyError,
    RunConflictError,
    RunNotFoundError,
    TryAgainError,
)
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.specs import spec_from_messages, spec_message, spec_parts

__all__ = ["Joined", "join_run"]

_BUSY_PAUSE_S = 0.25
_SLACK_S = 5.0  # a lease is free at most this long after the announced time
_ROUNDED_S = 0.01  # the announced time is a whole number of milliseconds
_log = logging.getLogger(__name__)
_joined_runs: dict[tuple[int, str, str], str] = {}  # (process, server, run) → the line that opened it

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A run that this process's job is attached to, until `leave`.

    Args:
        address: the server's.
        run_id: 16 bytes.
        spec: the run's, as the server stores it.
        generation: fences off everything older.
        heartbeat_interval_s: how often to renew the lease.
        attachment: of the whole job, in the process that has attached; None in the others.
        opened_at: the user's line that opens the run, for a later error of this process.
    """

    address: str
    run_id: bytes
    spec: RunSpec
    generation: int
    heartbeat_interval_s: float
    attachment: Attachment | None = None
    opened_at: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which the other ranks make the same object."""
        return {
            "run_id": self.run_id.hex(),
            "spec": spec_message(self.spec).SerializeToString().hex(),
            "generation": self.generation,
            "heartbeat_interval_s": self.heartbeat_interval_s,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], address: str, requested: RunSpec) -> Joined:
        """The run that another rank of the job has joined, with this rank's shards and mask."""
        message = pb.RunSpec.FromString(bytes.fromhex(values["spec"]))
        return cls(
            address=address,
            run_id=bytes.fromhex(values["run_id"]),
            spec=_stored_spec(message, requested),
            generation=values["generation"],
            heartbeat_interval_s=values["heartbeat_interval_s"],
        )

    def enter(self, holder: object, rank: int) -> None:
        """This process holds one rank's part of the run until `leave`, or until `holder` is gone."""
        if self.attachment is not None:
            _joined_runs[os.getpid(), self.address, self.spec.run] = self.opened_at
            self.attachment.enter(holder, rank)

    def leave(self) -> None:
        """Allows this process to join the run again."""
        if self.attachment is not None:
            _joined_runs.pop((os.getpid(), self.address, self.spec.run), None)
            self.attachment.leave()


def join_run(
    client: ScoreClient,
    options: RunOptions,
    requested: RunSpec,
    state: ResumeState | None,
    *,
    start_epoch: int = 0,
    world_size: int = 1,
    patience_s: float = math.inf,
    job: Job | None = None,
    opened_at: str = "",
) -> Joined:
    """Creates or joins a run and attaches to it.

    Args:
        client: of the run's server.
        options: the user's.
        requested: the spec that follows from them.
        state: from a checkpoint, or None for a new training.
        start_epoch: without a state, the first epoch; above 0, an existing run is resumed at that epoch.
        world_size: ranks of the job.
        patience_s: how long to wait for a lease at most: the other ranks wait too.
        job: this job; the launcher's by default.
        opened_at: the user's line that opens the run, for a later error of this process.

    Raises:
        RunConflictError: the run has another spec, or has trained already and no state was passed.
        RunNotFoundError: there is no run to resume.
        RunBusyError: another job, or another loader of this process, is training it.
        StateError: `state` belongs to another run, data set or order.
    """
    job = job or this_job()
    new = state is None and start_epoch == 0
    for before in left_behind(client.address, options.run):
        if not before.give_back(client, options.timeouts.call_timeout_s):
            break
    run_id, spec = _create(
        client,
        options,
        requested,
        restart=new and options.if_exists == "restart",
        start_epoch=0 if state else start_epoch,
    )
    if state is not None:
        state.check(spec, run_id)
    request = pb.AttachRunRequest(
        run_id=run_id,
        job=job.name,
        attempt=job.attempt,
        nonce=secrets.token_bytes(16),
        host=socket.gethostname(),
        pid=os.getpid(),
        world_size=world_size,
        resume=_resume(state, start_epoch),
        takeover=options.takeover,
        remember_drops=options.drops == "remember",
    )

    attachment = Attachment(client.address, spec.run, request)
    begin(attachment)

    def attach() -> pb.AttachRunResponse:
        # If the answer was lost, the server recognises the repeated call by its nonce.
        return retry_until(lambda _: attachment.call(client), options.timeouts.connect_timeout_s)

    try:
        answer = _once_free(client, spec.run, attach, patience_s)
    except InfoBatchError as error:
        if not isinstance(error, TryAgainError):
            attachment.forget()  # refused
        raise
    return Joined(
        address=client.address,
        run_id=run_id,
        spec=spec,
        generation=answer.generation,
        heartbeat_interval_s=answer.heartbeat_interval_ms / 1000,
        attachment=attachment,
        opened_at=opened_at,
    )


def _create(
    client: ScoreClient, options: RunOptions, requested: RunSpec, *, restart: bool, start_epoch: int
) -> tuple[bytes, RunSpec]:
    first = pb.CreateRunRequest(spec=spec_message(requested, options.order))

    def requests() -> Iterator[pb.CreateRunRequest]:
        yield first
        yield from spec_parts(requested)

    def delete() -> None:
        request = pb.DeleteRunRequest(run=options.run, force=options.takeover)
        _once_free(client, options.run, lambda: client.delete_run(request), math.inf)

    def create() -> pb.CreateRunResponse:
        """A server with too many calls of this kind takes none, or cuts off one that has been slow."""
        return retry_until(lambda _: client.create_run(requests()), options.timeouts.connect_timeout_s)

    try:
        answer = create()
    except RunConflictError as conflict:
        if not restart:
            raise
        try:
            delete()
        except RunNotFoundError:
            raise conflict from None  # no run of that name: the conflict has another cause
        answer = create()
    if restart and answer.trained:
        delete()
        answer = create()
    if start_epoch and answer.created and not options.fresh:
        delete()
        raise RunNotFoundError(
            f"there is no run {options.run!r} at {client.address} to resume at epoch {start_epoch}: is run= right? "
            "A new run begins at epoch 0, or gets a generated name (run=None)"
        )
    return answer.run_id, _stored_spec(answer.spec, requested)


def _stored_spec(message: pb.RunSpec, requested: RunSpec) -> RunSpec:
    """The run's spec, with the shards, mask and groups of the requested one, which the server found to be the same."""
    groups = requested.groups
    return spec_from_messages(
        message, requested.shard_sizes, requested.subset, None if groups is None else groups.of_shard
    )


def _once_free(client: ScoreClient, run: str, attempt: Callable[[], T], patience_s: float) -> T:
    """The result of `attempt`, as soon as no lease is in its way; waits only for a lease that nobody renews."""
    free_at_s: float | None = None  # at the latest, unless the lease is renewed
    while True:
        asked_s = time.monotonic()
        try:
            return attempt()
        except RunBusyError as error:
            if (own := _joined_runs.get((os.getpid(), client.address, run))) is not None:
                raise _held_here(run, own) from None
            if not error.retry_after_s:
                raise
            answered_s = time.monotonic()
            if free_at_s is None and error.retry_after_s + _SLACK_S > patience_s:
                raise
            if free_at_s is None:
                free_at_s = answered_s + error.retry_after_s
                _log.warning("waiting up to %.0f s for the run's lease to expire: %s", error.retry_after_s, error)
            elif asked_s + error.retry_after_s > free_at_s + _ROUNDED_S:
                raise RunBusyError(
                    f"{error} (that job is alive: it has called again since this one asked first)", error.retry_after_s
                ) from None
            elif answered_s > free_at_s + _SLACK_S:
                raise
        time.sleep(_BUSY_PAUSE_S)


def _held_here(run: str, opened_at: str) -> RunBusyError:
    """The error for a run that another object of this process holds: a cell of a notebook that was run again, often."""
    place = f" (it opened the run at {opened_at})" if opened_at else ""
    return RunBusyError(
        f"another loader or dataset of this process is training run {run!r}{place}: close() it first, or use it in a "
        "`with` block. If a notebook's cell was run again and no variable holds the old one, take the run from "
        'it with connection=Connection(takeover=True); add if_exists="restart" to begin the run anew'
    )


def _resume(state: ResumeState | None, start_epoch: int) -> pb.Resume:
    if state is None and start_epoch == 0:
        return pb.Resume(new=pb.Resume.New())
    if state is None:
        return pb.Resume(start=pb.Resume.Start(epoch=start_epoch))
    if state.inside:
        return pb.Resume(inside=pb.Resume.Inside(epoch=state.epoch, plan_id=str(state.plan_id)))
    return pb.Resume(start=pb.Resume.Start(epoch=state.next_epoch))
