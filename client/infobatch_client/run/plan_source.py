"""Where a run's plans come from: the server, shared by the ranks of a node, or the unpruned fallback."""

from __future__ import annotations

import logging
import time

from infobatch_client.plans.fetch import fetch_plan
from infobatch_client.plans.node_plans import NodePlans
from infobatch_client.ranks.ranks import Ranks
from infobatch_client.rpc.client import ScoreClient
from infobatch_client.run.joining import Joined
from infobatch_client.run.options import Timeouts
from infobatch_client.run.score_pusher import ScorePusher
from infobatch_client.run.unpruned_epochs import UnprunedEpochs
from infobatch_client.user_warnings import warn_user
from infobatch_stream import errors
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.pruning.policies.pruned_class import ODD_SHARE_ADVICE

__all__ = ["PlanSource"]

_log = logging.getLogger(__name__)


class PlanSource:
    """The plans of the attached run's epochs.

    Args:
        client: of the run's server.
        joined: the attached run.
        ranks: of the job; all of them call `get` together.
        pusher: this rank's, or None if another replica pushes.
        timeouts: how long to wait for a plan.
    """

    def __init__(
        self, client: ScoreClient, joined: Joined, *, ranks: Ranks, pusher: ScorePusher | None, timeouts: Timeouts
    ) -> None:
        self._client = client
        self._joined = joined
        self._pusher = pusher
        self._timeouts = timeouts
        self._is_first = ranks.is_first
        self._odd_classes = set[str]()
        self._node_plans = NodePlans(ranks)
        self._unpruned = UnprunedEpochs(client, joined, pusher)

    def get(self, epoch: int, plan_id: str) -> tuple[EpochPlan, str]:
        """An epoch's plan and its file; unpruned if a node can't have it within `plan_timeout_s`. All ranks together.

        Args:
            epoch: the epoch.
            plan_id: the plan of a resumed epoch, which has no substitute; "" for a new epoch.
        """
        shared = None
        if not self._unpruned.is_plan_of(epoch, plan_id):
            shared = self._node_plans.get(
                epoch,
                lambda: self._fetch_if_ready(epoch, plan_id),
                lambda node_plan_id: self._fetch(epoch, node_plan_id),
            )
            if shared is None:
                self._unpruned.add(epoch)
        if shared is None:
            shared = self._node_plans.get(
                epoch, lambda: self._unpruned.plan(epoch), lambda _: self._unpruned.plan(epoch)
            )
            assert shared is not None, "an unpruned plan needs no server"
        if self._is_first:
            self._warn_of_oddities(shared[0])
        return shared

    def close(self) -> None:
        """Removes the files."""
        self._node_plans.close()

    def _fetch_if_ready(self, epoch: int, plan_id: str) -> EpochPlan | None:
        """The plan; None if a new epoch's could not be fetched in time."""
        try:
            return self._fetch(epoch, plan_id)
        except (errors.TryAgainError, errors.AccessError) as error:
            if plan_id:
                raise
            _log.warning("no plan of epoch %d: %s", epoch, error)
            return None

    def _fetch(self, epoch: int, plan_id: str) -> EpochPlan:
        """The server's plan. The queue is flushed first: it may hold the EndEpoch that the plan waits for."""
        timeouts, pusher = self._timeouts, self._pusher
        deadline_s = time.monotonic() + timeouts.plan_timeout_s
        if pusher is not None and not pusher.flush(timeouts.plan_timeout_s):
            pusher.check()
            raise errors.ServerUnreachableError(f"{self._client.address} has not answered for {pusher.lag_s:.0f} s")
        self._unpruned.repeat_marks()
        return fetch_plan(
            self._client,
            run_id=self._joined.run_id,
            spec=self._joined.spec,
            generation=self._joined.generation,
            epoch=epoch,
            plan_id=plan_id,
            timeout_s=max(timeouts.call_timeout_s, deadline_s - time.monotonic()),
        )

    def _warn_of_oddities(self, plan: EpochPlan) -> None:
        """Warns of a plan that keeps nothing, and once of each class of an unusual size: mostly it stays unusual."""
        if not plan.kept:
            warn_user(f"epoch {plan.epoch}: the plan keeps no sample at all; prune less")
        if plan.unpruned:
            return
        policy = self._joined.spec.policy
        side = "below" if policy.condition == "low" else "above"
        cuts = [("", plan.low_share, plan.threshold)]
        cuts += [(f" of group {group.name}", group.low_share, group.threshold) for group in plan.groups]
        for where, share, threshold in cuts:
            if policy.finds_odd(share) and where not in self._odd_classes:
                self._odd_classes.add(where)
                warn_user(
                    f"epoch {plan.epoch}: {share:.0%} of the scored samples{where} are {side} the threshold "
                    f"{threshold:g}; expected 20–95 %. {ODD_SHARE_ADVICE}. This is said once; `infobatch stats` shows "
                    "later epochs",
                )
