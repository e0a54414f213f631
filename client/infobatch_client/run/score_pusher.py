"""Pushes scores to the server from a thread of its own, off the training loop's critical path.

The loop appends and returns; nothing it does wakes the thread, which polls and drains in batches. Scores and control
messages go out in the order in which they came in. An outage of the server costs only memory, which the outbox bounds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infobatch_client.rpc.client import ScoreClient
from infobatch_client.run.outbox import ControlMessage, Outbox
from infobatch_client.run.sender import PushCounts, Sender
from infobatch_stream import errors

__all__ = ["ScorePusher"]

_POLL_S = 0.05
_MIN_WAIT_S, _MAX_WAIT_S = 0.0002, 0.01  # between looks at whether all has arrived
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 1.0  # with the channel's, 3 s at most until the end of an outage is noticed
_log = logging.getLogger(__name__)


class ScorePusher:
    """The thread that pushes one generation's scores, and retries until they have arrived.

    `put_*` may be called from the loop's thread, the rest from any. After a fork, the child's copy does nothing.

    Args:
        client: of the run's server.
        run_id: 16 bytes.
        generation: the attached one.
        heartbeat_interval_s: how often the lease is renewed.
        columns: name and dtype of each column that is pushed beside the score.
        find_end: called when the server doesn't answer: the error to stop with if it never will, else None.
    """

    def __init__(
        self,
        client: ScoreClient,
        *,
        run_id: bytes,
        generation: int,
        heartbeat_interval_s: float,
        columns: Mapping[str, npt.DTypeLike] | None = None,
        find_end: Callable[[], errors.InfoBatchError | None] = lambda: None,
    ) -> None:
        self.counts = PushCounts()
        self.failure: errors.InfoBatchError | None = None
        self.outbox = Outbox(columns)
        self._sender = Sender(
            client,
            run_id=run_id,
            generation=generation,
            heartbeat_interval_s=heartbeat_interval_s,
            counts=self.counts,
        )
        self._address = client.address
        self._find_end = find_end
        self._backoff = _Backoff()
        self._closing = False
        self._has_counted_lost = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._busy = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="infobatch-score-pusher", daemon=True)

    def start(self) -> ScorePusher:
        """Starts the thread, which lives until `close`. The caller holds this object already, as it must close it."""
        self._thread.start()
        return self

    def put_scores(
        self,
        epoch: int,
        index: npt.NDArray[np.int64],
        scores: torch.Tensor,
        ready: Any = None,
        columns: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Queues the scores (B,) of samples (B,); rows with index −1 are left out. Returns at once.

        Args:
            epoch: in which they were trained.
            index: int64 (B,).
            scores: float32 (B,) in host memory, never changed afterwards.
            ready: a CUDA event after which `scores` and `columns` are filled, or None.
            columns: (B,) each, in host memory, by the names of the policy's columns.

        Raises:
            ConfigError: other columns than the policy's, or values that don't fit their dtype.
        """
        self.outbox.put_scores(epoch, index, scores, ready=ready, columns=columns, now_s=time.monotonic())

    def put_dropped(self, epoch: int, samples: npt.NDArray[np.int64]) -> None:
        """Queues samples (n,) that the pipeline dropped in an epoch. Returns at once."""
        self.outbox.put_dropped(epoch, samples)

    def put_message(self, message: ControlMessage) -> None:
        """Queues a control message behind every score that was queued before it. Returns at once."""
        self.outbox.put_message(message)

    def check(self) -> None:
        """Raises the error that stopped the pusher, if one did."""
        if self.failure is not None:
            raise self.failure

    @property
    def lag_s(self) -> float:
        """Age of the oldest score that the server hasn't answered for, in seconds."""
        oldest_s = self.outbox.oldest_s
        return 0.0 if oldest_s is None else time.monotonic() - oldest_s

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything queued has been answered for; False if time is up or the pusher has stopped."""
        if self._pid != os.getpid():
            return True
        deadline_s = time.monotonic() + timeout_s
        self._backoff.retry_at_s = 0.0
        pause_s = _MIN_WAIT_S
        # No Event or Condition: Ctrl-C in here could leave their locks held, and the thread would wait for ever.
        while not self.outbox.is_empty or self._busy:
            if self.failure is not None or not self._thread.is_alive():
                return False
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            if self._wake.empty():
                self._wake.put(None)
            time.sleep(min(left_s, pause_s))
            pause_s = min(_MAX_WAIT_S, 2 * pause_s)
        return self.failure is None

    def close(self, timeout_s: float) -> bool:
        """Flushes for at most `timeout_s`, and stops; the scores that remain are counted in one log line.

        Returns:
            Whether everything has arrived.
        """
        if self._pid != os.getpid():
            return False
        # The garbage collector may close a loader on any thread, this one's own included.
        in_own_thread = threading.current_thread() is self._thread
        flushed = False
        try:
            flushed = not in_own_thread and self.flush(timeout_s)
        finally:  # after Ctrl-C too: the thread would renew the lease for ever
            self._closing = True
            self._wake.put(None)
        if not in_own_thread and self._thread.ident is not None:
            self._thread.join(timeout=_POLL_S * 4 + 1.0)
        if not flushed:
            self._count_lost()
        return flushed

    def _count_lost(self) -> None:
        """Counts the scores that will not be sent, once; they stay queued, as the thread may be sending some."""
        if self._has_counted_lost:
            return
        self._has_counted_lost = True
        lost = self.outbox.records
        self.counts.lost += lost
        if lost:
            _log.warning("%d scores of the run did not reach the server at %s", lost, self._address)

    def _run(self) -> None:
        while not self._closing:
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=_POLL_S)
            self._busy = True
            try:
                self.outbox.collect()
                self._send_all()
                # No beat between attempts: each that fails would put the next attempt off.
                if time.monotonic() >= self._backoff.retry_at_s and self._sender.beat_if_due():
                    self._backoff.reset()
            except (errors.SupersededError, errors.RunNotFoundError, errors.RunConflictError) as error:
                return self._stop(error)
            # TryAgainError, an internal error of the server, which may pass, or a token that may be replaced.
            except errors.ServerError as error:
                if (end := self._find_end()) is not None:
                    return self._stop(end)
                self._back_off(error)
            except errors.InfoBatchError as error:  # a control message that the server rejects
                return self._stop(error)
            except Exception as error:
                failure = errors.ServerError(f"the score pusher failed: {error!r}")
                failure.__cause__ = error
                return self._stop(failure)
            finally:
                self._busy = False

    def _send_all(self) -> None:
        if time.monotonic() < self._backoff.retry_at_s:
            return
        while not self._closing and (item := self.outbox.next()) is not None:
            self._sender.send(item)
            self._backoff.reset()
            self.outbox.done()

    def _stop(self, failure: errors.InfoBatchError) -> None:
        """Trying again can't help: the loop's next call raises `failure`."""
        self.failure = failure
        self._count_lost()

    def _back_off(self, error: Exception) -> None:
        if self._backoff.is_first and not self._closing:
            _log.warning("scores wait for the score server: %s", error)
        self.counts.retries += 1
        self._backoff.wait_longer()
        self._sender.skip_heartbeat()


class _Backoff:
    """When to call again after failures: pauses that double up to a bound."""

    def __init__(self) -> None:
        self.retry_at_s = 0.0
        self._pause_s = _MIN_BACKOFF_S

    @property
    def is_first(self) -> bool:
        """Whether no call has failed since the last success."""
        return self._pause_s == _MIN_BACKOFF_S

    def reset(self) -> None:
        """Notes a success."""
        self._pause_s = _MIN_BACKOFF_S

    def wait_longer(self) -> None:
        """Notes a failure."""
        self.retry_at_s = time.monotonic() + self._pause_s
        self._pause_s = min(_MAX_BACKOFF_S, 2 * self._pause_s)
