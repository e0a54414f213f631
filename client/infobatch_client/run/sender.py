"""Sends the items of an outbox for one generation of a run, and heartbeats between them. No thread."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from infobatch_client.rpc.client import ScoreClient
from infobatch_client.run.outbox import ControlMessage, Push
from infobatch_stream.errors import ConfigError
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["PushCounts", "Sender"]

_log = logging.getLogger(__name__)


@dataclass
class PushCounts:
    """Totals of one pusher's scores.

    Args:
        pushed: records that the server has answered for.
        rejected: of those, NaN or infinite.
        lost: records that were given up.
        retries: calls that had to be repeated.
    """

    pushed: int = 0
    rejected: int = 0
    lost: int = 0
    retries: int = 0


class Sender:
    """Sends one item per call, and counts the server's answers. For one thread.

    Args:
        client: of the run's server.
        run_id: 16 bytes.
        generation: the attached one.
        heartbeat_interval_s: how often the lease is renewed.
        counts: the totals to add to.
    """

    def __init__(
        self, client: ScoreClient, *, run_id: bytes, generation: int, heartbeat_interval_s: float, counts: PushCounts
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._generation = generation
        self._heartbeat_interval_s = heartbeat_interval_s
        self._counts = counts
        self._client_id = secrets.token_bytes(16)
        self._non_finite: Counter[int] = Counter()  # by epoch, since its last EndEpoch
        self._last_call_s = time.monotonic()

    def send(self, item: Push | ControlMessage) -> None:
        """Sends an item; after TryAgainError the same item may be sent again.

        Raises:
            TryAgainError: no usable answer.
            SupersededError, RunNotFoundError, RunConflictError: the run takes no more from this generation.
            ConfigError: a control message that the server rejects.
        """
        if isinstance(item, Push):
            self._push(item)
        elif isinstance(item, pb.EndEpochRequest):
            self._end_epoch(item)
        else:
            self._client.mark_unpruned(item)
        self._last_call_s = time.monotonic()

    def beat_if_due(self) -> bool:
        """Renews the lease if no call has done so for `heartbeat_interval_s`; whether it did."""
        if time.monotonic() - self._last_call_s < self._heartbeat_interval_s:
            return False
        self._client.heartbeat(pb.HeartbeatRequest(run_id=self._run_id, generation=self._generation))
        self._last_call_s = time.monotonic()
        return True

    def skip_heartbeat(self) -> None:
        """Puts the next heartbeat off by `heartbeat_interval_s`: the call that failed was one."""
        self._last_call_s = time.monotonic()

    def _push(self, push: Push) -> None:
        records = len(push.index)
        try:
            answer = self._client.push_scores(self._message(push))
        except ConfigError as error:
            self._counts.lost += records
            _log.error("the score server refused %d scores, which are lost: %s", records, error)
            return
        # A repeated push that had arrived the first time is answered with empty counts.
        non_finite = int(np.count_nonzero(~np.isfinite(push.scores))) if answer.duplicate else answer.non_finite
        if non_finite and not self._counts.rejected:
            _log.warning(
                "%d of %d scores are NaN or infinite and were not stored (said once; metrics() counts them all)",
                *(non_finite, records),
            )
        self._counts.pushed += records
        self._counts.rejected += non_finite
        self._non_finite[push.epoch] += non_finite

    def _end_epoch(self, request: pb.EndEpochRequest) -> None:
        """The scores of the epoch have been answered for by now, so the number of those rejected is known."""
        if non_finite := self._non_finite[request.epoch]:
            request.counts.non_finite = non_finite
        self._client.end_epoch(request)
        del self._non_finite[request.epoch]

    def _message(self, push: Push) -> pb.PushScoresRequest:
        request = pb.PushScoresRequest(
            run_id=self._run_id,
            generation=self._generation,
            client_id=self._client_id,
            sequence=push.sequence,
            epoch=push.epoch,
            indices=push.index.astype("<i8", copy=False).tobytes(),
            scores=push.scores.astype("<f4", copy=False).tobytes(),
        )
        if len(push.dropped):
            request.dropped = push.dropped.astype("<i8", copy=False).tobytes()
        for name, values in push.columns.items():
            little = values.astype(values.dtype.newbyteorder("<"), copy=False)
            request.columns.add(name=name, dtype=values.dtype.name, data=little.tobytes())
        return request
