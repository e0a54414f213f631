"""Pushes scores to the server from a thread of its own, off the training loop's critical path.

The loop appends and returns; nothing it does wakes the thread, which polls and drains in batches. Scores and control
messages go out in the order in which they came in. A server that is away costs nothing but memory, and that is
bounded: of a sample's scores within an epoch only the newest is kept.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infobatch_client.rpc.client import ScoreClient
from infobatch_stream import errors
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["PushCounts", "ScorePusher"]

_POLL_S = 0.05
_RECORDS_PER_PUSH = 16_384
_MAX_BACKOFF_S = 5.0
_log = logging.getLogger(__name__)


@dataclass
class PushCounts:
    """What became of the scores of this pusher.

    Args:
        pushed: records that the server has answered for.
        rejected: of those, NaN or infinite.
        lost: records that were given up.
        retries: calls that had to be made again.
    """

    pushed: int = 0
    rejected: int = 0
    lost: int = 0
    retries: int = 0


@dataclass(frozen=True)
class _Batch:
    """Scores of a batch, as the loop gave them: `ready` is None once they lie in host memory."""

    epoch: int
    index: npt.NDArray[np.int64]
    scores: torch.Tensor
    ready: Any
    since_s: float


@dataclass
class _Segment:
    """Scores of one epoch between two control messages; newest wins."""

    epoch: int
    parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]] = field(default_factory=list)
    records: int = 0
    coalesced: int = 0

    def add(self, index: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> None:
        real = index >= 0
        self.parts.append((index[real], scores[real]))
        self.records += int(np.count_nonzero(real))
        if self.records > max(_RECORDS_PER_PUSH, 2 * self.coalesced):
            self._coalesce()

    def take(self, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Removes up to `count` records."""
        self._coalesce()
        index, scores = self.parts[0]
        self.parts = [(index[count:], scores[count:])]
        self.records = self.coalesced = len(index[count:])
        return index[:count], scores[:count]

    def _coalesce(self) -> None:
        if self.records == self.coalesced and len(self.parts) == 1:
            return
        index = np.concatenate([index for index, _ in self.parts])
        scores = np.concatenate([scores for _, scores in self.parts])
        _, last = np.unique(index[::-1], return_index=True)
        keep = np.sort(len(index) - 1 - last)
        self.parts = [(index[keep], scores[keep])]
        self.records = self.coalesced = len(keep)


class ScorePusher:
    """One generation's way to the server. `put_*` may be called from the loop's thread; the rest from any.

    Args:
        client: the server's rpcs.
        run_id: 16 bytes.
        generation: the attached one.
        heartbeat_interval_s: how often the lease is renewed.
        find_end: asked when the server doesn't answer: the error to stop with where it never will, else None.
    """

    def __init__(
        self,
        client: ScoreClient,
        *,
        run_id: bytes,
        generation: int,
        heartbeat_interval_s: float,
        find_end: Callable[[], errors.InfoBatchError | None] = lambda: None,
    ) -> None:
        self.counts = PushCounts()
        self.failure: errors.InfoBatchError | None = None
        self._client = client
        self._run_id = run_id
        self._generation = generation
        self._heartbeat_interval_s = heartbeat_interval_s
        self._find_end = find_end
        self._client_id = secrets.token_bytes(16)
        self._sequence = 0
        self._intake: deque[_Batch | tuple[str, Any]] = deque()
        self._todo: deque[_Segment | tuple[str, Any]] = deque()
        self._frozen: pb.PushScoresRequest | None = None
        self._last_call_s = time.monotonic()
        self._oldest_s: float | None = None
        self._retry_at_s = 0.0
        self._backoff_s = 0.1
        self._closing = False
        self._counted_lost = False
        self._wake = threading.Event()
        self._idle = threading.Condition()
        self._busy = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="infobatch-score-pusher", daemon=True)
        self._thread.start()

    def put_scores(self, epoch: int, index: npt.NDArray[np.int64], scores: torch.Tensor, ready: Any = None) -> None:
        """Queues the scores (B,) of samples (B,); rows with index −1 are left out. Returns at once.

        Args:
            epoch: in which they were trained.
            index: int64 (B,).
            scores: float32 (B,) in host memory, ours alone.
            ready: a CUDA event after which `scores` is filled, or None.
        """
        self._intake.append(_Batch(epoch, index, scores, ready, time.monotonic()))

    def put_call(self, rpc: str, request: Any) -> None:
        """Queues a control message, behind every score that was queued before it. Returns at once."""
        self._intake.append((rpc, request))

    def check(self) -> None:
        """Raises what made the pusher stop, if something did."""
        if self.failure is not None:
            raise self.failure

    @property
    def lag_s(self) -> float:
        """Age of the oldest score that the server hasn't answered for, in seconds."""
        oldest = self._oldest_s
        return 0.0 if oldest is None else time.monotonic() - oldest

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything queued has been answered for; False when time is up or the pusher has stopped."""
        if self._pid != os.getpid():
            return True
        deadline = time.monotonic() + timeout_s
        self._retry_at_s = 0.0
        with self._idle:
            while self._intake or self._todo or self._frozen is not None or self._busy:
                if self.failure is not None or not self._thread.is_alive():
                    return False
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._wake.set()
                self._idle.wait(min(left, _POLL_S))
        return self.failure is None

    def close(self, timeout_s: float) -> bool:
        """Flushes for at most `timeout_s`, and stops; what is left is counted in one log line.

        Returns:
            Whether everything has arrived.
        """
        if self._pid != os.getpid():
            return False
        # The garbage collector may close a loader on any thread, this one's own included.
        own = threading.current_thread() is self._thread
        flushed = not own and self.flush(timeout_s)
        self._closing = True
        self._wake.set()
        if not own:
            self._thread.join(timeout=_POLL_S * 4 + 1.0)
        if not flushed:
            self._count_lost()
        return flushed

    def _count_lost(self) -> None:
        """Counts what will not be sent, once; it stays where it is, for the thread may be sending some of it."""
        if self._counted_lost:
            return
        self._counted_lost = True
        left = sum(item.records for item in list(self._todo) if isinstance(item, _Segment))
        left += sum(int(np.count_nonzero(item.index >= 0)) for item in list(self._intake) if isinstance(item, _Batch))
        frozen = self._frozen
        left += len(frozen.scores) // 4 if frozen is not None else 0
        self.counts.lost += left
        if left:
            _log.warning("%d scores of the run did not reach the server at %s", left, self._client.address)

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(_POLL_S)
            self._wake.clear()
            self._busy = True
            try:
                self._take_in()
                self._send_all()
                self._beat()
            except (errors.SupersededError, errors.RunNotFoundError, errors.RunConflictError) as error:
                return self._stop(error)
            except errors.ServerError as error:
                if (end := self._find_end()) is not None:
                    return self._stop(end)
                self._back_off(error)
            except errors.InfoBatchError as error:  # a control message that the server won't take
                return self._stop(error)
            except Exception as error:
                failure = errors.ServerError(f"the score pusher failed: {error!r}")
                failure.__cause__ = error
                return self._stop(failure)
            finally:
                self._busy = False
                with self._idle:
                    self._idle.notify_all()

    def _stop(self, failure: errors.InfoBatchError) -> None:
        """Trying again can't help: the loop is told at its next call."""
        self.failure = failure
        self._count_lost()

    def _take_in(self) -> None:
        """Moves what the loop appended to the list of what is to be sent."""
        while self._intake:
            item = self._intake[0]
            if isinstance(item, _Batch):
                if item.ready is not None and not item.ready.query():
                    return
                if not (self._todo and isinstance(last := self._todo[-1], _Segment) and last.epoch == item.epoch):
                    last = _Segment(item.epoch)
                    self._todo.append(last)
                last.add(item.index, item.scores.numpy())
                if self._oldest_s is None:
                    self._oldest_s = item.since_s
            else:
                self._todo.append(item)
            self._intake.popleft()

    def _send_all(self) -> None:
        if time.monotonic() < self._retry_at_s:
            return
        while not self._closing and (self._frozen is not None or self._todo):
            if self._frozen is not None:
                self._push(self._frozen)
                continue
            item = self._todo[0]
            if isinstance(item, _Segment):
                if item.records:
                    self._freeze(item)
                    continue
            else:
                self._call(*item)
            self._todo.popleft()
        if not self._todo:
            self._oldest_s = None

    def _freeze(self, segment: _Segment) -> None:
        """The next push: its content stays what it is until the server has answered for it."""
        index, scores = segment.take(_RECORDS_PER_PUSH)
        self._sequence += 1
        self._frozen = pb.PushScoresRequest(
            run_id=self._run_id,
            generation=self._generation,
            client_id=self._client_id,
            sequence=self._sequence,
            epoch=segment.epoch,
            indices=index.astype("<i8", copy=False).tobytes(),
            scores=scores.astype("<f4", copy=False).tobytes(),
        )

    def _push(self, request: pb.PushScoresRequest) -> None:
        records = len(request.scores) // 4
        try:
            answer = self._call("PushScores", request)
        except errors.ConfigError as error:
            self.counts.lost += records
            _log.error("the score server refused %d scores, which are lost: %s", records, error)
        else:
            self.counts.pushed += records
            if answer.non_finite and not self.counts.rejected:
                _log.warning(
                    "%d of %d scores are NaN or infinite and were not stored (said once; metrics() counts them all)",
                    *(answer.non_finite, records),
                )
            self.counts.rejected += answer.non_finite
        self._frozen = None

    def _call(self, rpc: str, request: Any) -> Any:
        answer = self._client.call(rpc, request)
        self._last_call_s = time.monotonic()
        self._backoff_s = 0.1
        return answer

    def _beat(self) -> None:
        if time.monotonic() - self._last_call_s >= self._heartbeat_interval_s:
            self._call("Heartbeat", pb.HeartbeatRequest(run_id=self._run_id, generation=self._generation))

    def _back_off(self, error: Exception) -> None:
        if self._backoff_s == 0.1 and not self._closing:
            _log.warning("scores wait for the score server: %s", error)
        self.counts.retries += 1
        self._retry_at_s = time.monotonic() + self._backoff_s
        self._last_call_s = time.monotonic()
        self._backoff_s = min(_MAX_BACKOFF_S, 2 * self._backoff_s)
