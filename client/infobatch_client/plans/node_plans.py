"""An epoch's plan on every rank: fetched once per node, laid beside each of its ranks, and the same everywhere."""

from __future__ import annotations

from collections.abc import Callable

from infobatch_client.plans.files import PlanFiles, map_plan
from infobatch_client.ranks.ranks import Ranks
from infobatch_stream.plan.epoch_plan import EpochPlan

__all__ = ["NodePlans"]

_ADVICE = "the job was taken over, or the server lost its state, while the epoch was opened; start again from a state"


class NodePlans:
    """The plans of one job's ranks.

    Args:
        ranks: who they are.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._files: PlanFiles | None = None

    def get(
        self, epoch: int, fetch: Callable[[], EpochPlan | None], again: Callable[[str], EpochPlan]
    ) -> tuple[EpochPlan, str] | None:
        """The plan and this process's file of it; None where a node couldn't have it. All ranks call it together.

        Args:
            epoch: whose plan.
            fetch: the plan, or None; called by one process a node.
            again: the plan of an id, where a node's file can't be shared.
        """
        ranks = self._ranks
        fetched: EpochPlan | None = None

        def lead() -> list[str] | None:
            nonlocal fetched
            fetched = fetch() if ranks.leads_node else None
            return None if fetched is None else [fetched.plan_id, self._folder.store(fetched)]

        def follow() -> tuple[EpochPlan, str]:
            if fetched is not None:
                return fetched, leads[ranks.leader][1]
            plan_id, path = leads[ranks.leader]
            try:
                own = self._folder.adopt(path, plan_id)
            except OSError:
                own = self._folder.store(again(plan_id))
            return map_plan(own), own

        answers = ranks.together(f"fetch the plan of epoch {epoch}", lead)
        leads = [answer or ["", ""] for answer in answers]
        if not all(leads[at][0] for at in ranks.leaders):
            return None
        found: list[tuple[EpochPlan, str]] = []

        def lay() -> dict[str, str]:
            found.append(follow())
            return {"plan": found[0][0].plan_id}

        ranks.compare(f"lay down the plan of epoch {epoch}", lay, _ADVICE)
        self._folder.keep_newest()
        return found[0]

    def close(self) -> None:
        """Removes the files."""
        if self._files is not None:
            self._files.close()

    @property
    def _folder(self) -> PlanFiles:
        """Made in a step that all ranks take together: a full disk is told to all."""
        self._files = self._files or PlanFiles()
        return self._files
