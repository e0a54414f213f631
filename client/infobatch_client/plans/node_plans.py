"""An epoch's plan on every rank: fetched once per node, a file for each rank, and the same plan everywhere."""

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
        ranks: of the job.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._files: PlanFiles | None = None

    def get(
        self, epoch: int, fetch: Callable[[], EpochPlan | None], again: Callable[[str], EpochPlan]
    ) -> tuple[EpochPlan, str] | None:
        """The plan and this process's file of it; None if a node couldn't fetch it. All ranks call it together.

        Args:
            epoch: the plan's.
            fetch: returns the plan, or None; one process per node calls it.
            again: returns the plan of an id; called if the node's file can't be shared.
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
            plan_id, leaders_path = leads[ranks.leader]
            try:
                path = self._folder.adopt(leaders_path, plan_id)
            except OSError:
                path = self._folder.store(again(plan_id))
            return map_plan(path), path

        answers = ranks.together(f"fetch the plan of epoch {epoch}", lead)
        leads = [answer or ["", ""] for answer in answers]
        if not all(leads[at][0] for at in ranks.leaders):
            return None
        results: list[tuple[EpochPlan, str]] = []

        def store() -> dict[str, str]:
            results.append(follow())
            return {"plan": results[0][0].plan_id}

        ranks.compare(f"store the plan of epoch {epoch}", store, _ADVICE)
        self._folder.keep_newest()
        return results[0]

    def close(self) -> None:
        """Removes the files."""
        if self._files is not None:
            self._files.close()

    @property
    def _folder(self) -> PlanFiles:
        """Created in a step that all ranks take together, so that a full disk raises on all of them."""
        self._files = self._files or PlanFiles()
        return self._files
