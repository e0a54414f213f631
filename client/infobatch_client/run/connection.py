"""The connection of one rank to its run's server: the address or the embedded server, the client, the attached run."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from typing import Any

from infobatch_client.embedded.server import EmbeddedServer
from infobatch_client.ranks.ranks import Ranks
from infobatch_client.rpc.client import ScoreClient
from infobatch_client.run.attachment import left_behind
from infobatch_client.run.joining import Joined, join_run
from infobatch_client.run.options import RunOptions
from infobatch_client.run.resume_state import ResumeState
from infobatch_client.user_warnings import users_line
from infobatch_stream import errors
from infobatch_stream.manifest import Manifest
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["RunConnection"]

_DETACH_TIMEOUT_S = 2.0
_MAX_REVIVALS = 3
_REVIVAL_S = 60.0
_log = logging.getLogger(__name__)


class RunConnection:
    """Connects on construction: contacts the server, creates or joins the run, and attaches to it.

    All ranks of a job create theirs together.

    Args:
        options: the user's.
        manifest: of the shards.
        ranks: of the job.
        batch_size: rows per rank and step, for the order's default.
        state: from a checkpoint, or None for a new training.
        start_epoch: without a state, the first epoch.

    Attributes:
        client: the server's rpcs.
        joined: the attached run.

    Raises:
        As `TrainingRun`.
    """

    _closed = True

    def __init__(
        self,
        options: RunOptions,
        manifest: Manifest,
        *,
        ranks: Ranks,
        batch_size: int,
        state: ResumeState | None,
        start_epoch: int,
    ) -> None:
        self._ranks = ranks
        self._embedded: EmbeddedServer | None = None
        self._opened_at = users_line()
        self._forgets = False
        self._pid = os.getpid()
        self._closed = False
        self._reviving = threading.Lock()
        self._revivals: list[float] = []
        try:
            address = options.url or self._start_embedded(options.state_dir)
            credentials = options.connection.credentials if self._embedded is None else self._embedded.credentials
            self.client = ScoreClient(address, call_timeout_s=options.timeouts.call_timeout_s, credentials=credentials)
            self.joined = self._join(options, manifest, batch_size, state, start_epoch)
        except BaseException:
            self._give_up(options.run)
            raise

    def find_end(self) -> errors.ServerError | None:
        """The error that says why the server will never answer again; None if it may.

        An embedded server that has ended is started again, and recovers this run. Somebody else has to do so for an
        `infobatch serve`.
        """
        embedded = self._embedded
        if embedded is None:
            return None
        with self._reviving:
            pid = embedded.pid
            if embedded.alive:
                return None
            self._revivals = [at for at in self._revivals if time.monotonic() - at < _REVIVAL_S]
            reason: object = f"for the {_MAX_REVIVALS + 1}th time within {_REVIVAL_S:.0f} s"
            if len(self._revivals) < _MAX_REVIVALS:
                self._revivals.append(time.monotonic())
                try:
                    embedded.revive()
                except errors.InfoBatchError as error:
                    reason = f"and could not be started again: {error}"
                else:
                    _log.warning(
                        "the embedded score server (pid %d) had ended; one with pid %d goes on with its runs (log: %s)",
                        *(pid, embedded.pid, embedded.log),
                    )
                    self.client.move_to(embedded.address, embedded.credentials)
                    return None
        return errors.ServerError(
            f"the embedded score server (pid {pid}) has ended {reason}; its log is {embedded.log}. What it had stored "
            "is kept: load the last state to resume the run, or train against an `infobatch serve` of your own "
            "(url='HOST:PORT')"
        )

    def warn_if_it_forgets(self) -> None:
        """Says once, where a state is saved, that it is of no use after the server's end."""
        if not self._forgets:
            return
        self._forgets = False
        _log.warning(
            "the saved state can be resumed as long as the score server at %s runs: it keeps its runs in memory",
            self.client.address,
        )

    def detach(self) -> None:
        """Gives back this rank's part of the lease; a failure is logged only, as the lease expires by itself."""
        joined = self.joined
        request = pb.DetachRunRequest(run_id=joined.run_id, generation=joined.generation, rank=self._ranks.rank)
        try:
            self.client.detach_run(request, timeout_s=_DETACH_TIMEOUT_S)
        except errors.InfoBatchError as error:
            _log.warning("could not give the run's lease back, it expires by itself: %s", error)
        else:
            if joined.attachment is not None:
                joined.attachment.forget()

    def enter(self, holder: object) -> None:
        """The run is open, and `holder` has it."""
        self.joined.enter(holder, self._ranks.rank)

    def abandon(self) -> None:
        """Gives the lease back, the whole job's in the process that has attached, and closes."""
        try:
            if self.joined.attachment is not None:
                self.joined.attachment.give_back(self.client)
            else:
                self.detach()
        finally:
            self.close()

    def close(self) -> None:
        """Closes the channel and releases an embedded server; this process may join the run again."""
        self.joined.leave()
        self._release()

    def __del__(self) -> None:
        """An interrupt between the end of `__init__` and the assignment of its result leaves this the last one."""
        if not self._closed and self._pid == os.getpid():
            self.abandon()

    def _give_up(self, run: str) -> None:
        """The run isn't joined; it may be attached."""
        try:
            if (client := getattr(self, "client", None)) is not None:
                for begun in left_behind(client.address, run)[:1]:
                    begun.give_back(client)
        finally:
            self._release()

    def _release(self) -> None:
        self._closed = True
        if (client := getattr(self, "client", None)) is not None:
            client.close()
        if self._embedded is not None:
            self._embedded.release()

    def _start_embedded(self, state_dir: str | None) -> str:
        """The address of a server that all ranks share; each of them keeps it alive."""
        if self._ranks.num_nodes > 1:
            raise errors.ConfigError(
                f"the ranks run on {self._ranks.num_nodes} nodes, and an embedded server serves one: start `infobatch "
                "serve --data-dir DIR --grpc HOST:50051` that all of them reach, with TLS and tokens or --insecure, "
                'and give its url="grpcs://HOST:50051" (or "HOST:50051")'
            )

        def start() -> dict[str, str]:
            self._embedded = EmbeddedServer.start(state_dir)
            return {"the embedded server": self._embedded.address}

        self._ranks.compare("use one embedded server", start, "start every rank in one folder, or give state_dir=")
        assert self._embedded is not None
        return self._embedded.address

    def _join(
        self,
        options: RunOptions,
        manifest: Manifest,
        batch_size: int,
        state: ResumeState | None,
        start_epoch: int,
    ) -> Joined:
        """Joins on the first rank, and passes the run on to the others."""
        ranks, joined = self._ranks, None
        spec = options.spec(manifest, global_batch=batch_size * ranks.world_size, num_nodes=ranks.num_nodes)

        def join() -> dict[str, Any]:
            nonlocal joined
            server = self.client.wait_until_up(options.timeouts.connect_timeout_s)
            self._forgets = not server.durable
            if options.fresh:
                print(f"infobatch: run={options.run!r}", flush=True)
            if options.policy.biased:
                _log.warning(
                    "policy %r with these settings is biased: its weights don't make up for what it prunes",
                    options.policy.name,
                )
            try:
                joined = join_run(
                    self.client,
                    options,
                    spec,
                    state,
                    start_epoch=start_epoch,
                    world_size=ranks.world_size,
                    patience_s=math.inf if ranks.world_size == 1 else options.timeouts.agree_timeout_s,
                    opened_at=self._opened_at,
                )
            except errors.RunConflictError as conflict:
                if not manifest.left_out:
                    raise
                raise errors.RunConflictError(f"{conflict}{manifest.left_out_hint}") from conflict
            return joined.to_dict()

        values = ranks.from_first("join the run", join)
        return joined or Joined.from_dict(values, self.client.address, spec)
