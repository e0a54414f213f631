"""The fallback of a run: epochs that are trained unpruned because their plan could not be fetched in time."""

from __future__ import annotations

import logging

import numpy as np

from infobatch_client.rpc.client import ScoreClient
from infobatch_client.run.joining import Joined
from infobatch_client.run.score_pusher import ScorePusher
from infobatch_stream.plan.epoch_plan import EpochPlan, full_plan_id, unpruned_plan
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["UnprunedEpochs"]

_log = logging.getLogger(__name__)


class UnprunedEpochs:
    """Remembers which epochs fall back, tells the server, and makes their plans without it.

    Args:
        client: of the run's server.
        joined: the attached run.
        pusher: this rank's, or None if another replica pushes.
    """

    def __init__(self, client: ScoreClient, joined: Joined, pusher: ScorePusher | None) -> None:
        self._client = client
        self._joined = joined
        self._pusher = pusher
        self._epochs: set[int] = set()

    def is_plan_of(self, epoch: int, plan_id: str) -> bool:
        """Whether an id is that of the epoch's unpruned plan, which needs no server."""
        return plan_id == full_plan_id(self._joined.run_id, epoch)

    def add(self, epoch: int) -> None:
        """Decides that an epoch is trained unpruned, and queues the message that says so."""
        _log.warning("epoch %d is trained unpruned: its plan could not be fetched", epoch)
        self._epochs.add(epoch)
        if self._pusher is not None:
            self._pusher.put_message(self._mark(epoch))

    def repeat_marks(self) -> None:
        """Marks the epochs at the server again, from a rank that doesn't push.

        The ranks that push have queued the same marks, which the server may not have received yet.

        Raises:
            TryAgainError: no answer.
        """
        if self._pusher is None:
            for epoch in sorted(self._epochs):
                self._client.mark_unpruned(self._mark(epoch))

    def plan(self, epoch: int) -> EpochPlan:
        """The epoch's plan that keeps every sample; the same on every rank."""
        spec = self._joined.spec
        return unpruned_plan(
            run_id=self._joined.run_id,
            epoch=epoch,
            seed=spec.seed,
            shard_sizes=np.asarray(spec.shard_sizes),
            order=spec.order,
            subset=spec.subset,
        )

    def _mark(self, epoch: int) -> pb.MarkUnprunedRequest:
        return pb.MarkUnprunedRequest(run_id=self._joined.run_id, generation=self._joined.generation, epoch=epoch)
