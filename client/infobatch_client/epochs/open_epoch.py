"""An epoch between its opening and its end: its plan, and how much of it was consumed and updated."""

from __future__ import annotations

from dataclasses import dataclass, field

from infobatch_client.epochs.awaited import AwaitedBatches
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.plan.opening import Opening
from infobatch_stream.row_counts import NO_ROWS, RowCounts

__all__ = ["OpenEpoch"]


@dataclass(eq=False)
class OpenEpoch:
    """An open epoch, or the last one after `close()`.

    Args:
        number: of the epoch.
        plan: the samples that are trained.
        plan_path: the file that workers map; "" for all samples in index order.
        opening: the steps from the position at which it began.
        explicit: opened by `epochs()` or `set_epoch()`, so that a second pass over it is a mistake.
        max_steps: a pass returns at most so many batches.
        generation: of the plan; 0 without one.
        base_seed: of the random numbers of stages, if it isn't this process's own.
        pass_number: in validation, of the pass; None in training.
        num_consumed: batches that a loader returned to its caller, or that a plain loop updated or skipped.
        updated: a batch, or some of its rows, was updated or skipped.
        exhausted: the pass over it has returned its last batch.
        ended: its end was passed on to the run.
        counts: of the rows of the consumed batches.
        awaited: the present pass's batches that await their update; a plain loop has none.
        plan_for_callers: the plan, as users have it.
    """

    number: int
    plan: EpochPlan
    plan_path: str
    opening: Opening
    explicit: bool
    max_steps: int | None = None
    generation: int = 0
    base_seed: int | None = None
    pass_number: int | None = None
    num_consumed: int = 0
    updated: bool = False
    exhausted: bool = False
    ended: bool = False
    counts: RowCounts = NO_ROWS
    awaited: AwaitedBatches = field(init=False)
    plan_for_callers: EpochPlan = field(init=False)

    def __post_init__(self) -> None:
        self.plan_for_callers = self.plan.for_callers()
        self.awaited = AwaitedBatches(self.number)

    @property
    def positions(self) -> int:
        """Global positions consumed, over all ranks."""
        return self.opening.consumed(self.num_consumed)

    @property
    def num_batches(self) -> int:
        """Batches of a pass over it."""
        steps = self.opening.num_steps
        return steps if self.max_steps is None else min(steps, self.max_steps)

    @property
    def stopped(self) -> bool:
        """Whether `max_steps` ends the pass here, before the epoch's own end."""
        return not self.finished and self.num_consumed >= self.num_batches

    @property
    def finished(self) -> bool:
        """Whether every batch of it was consumed."""
        return self.num_consumed >= self.opening.num_steps

    @property
    def settled(self) -> bool:
        """Whether no batch of it is still to be read or updated."""
        return self.exhausted and not self.awaited

    @property
    def progress(self) -> float:
        """epoch + consumed / positions of this epoch."""
        return self.number + (1.0 if self.finished else self.positions / self.opening.end)

    def restart(self) -> None:
        """Begins the pass again; nothing was updated, so nothing is lost."""
        self.num_consumed, self.exhausted, self.counts = 0, False, NO_ROWS
        self.awaited = AwaitedBatches(self.number)

    def consume(self, counts: RowCounts) -> None:
        """Counts one more batch as consumed, with the counts of its rows."""
        self.num_consumed += 1
        self.counts += counts

    def metrics(self) -> dict[str, float]:
        """The plan's numbers, and the counts of the rows of the consumed batches on this rank."""
        counts = self.counts
        return {
            "epoch": self.number,
            "positions": self.positions,
            "kept": self.plan.kept,
            "pruned": self.plan.pruned,
            "rows_real": counts.real,
            "rows_filled": counts.filled,
            "rows_dropped": counts.dropped,
            "rows_unreadable": counts.unreadable,
        }
