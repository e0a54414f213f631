"""A consistent snapshot of a run, for statistics."""

from __future__ import annotations

from dataclasses import dataclass

from infobatch_server.runs.run import Run
from infobatch_server.state.run_state import Lease, PlanLine, RunState
from infobatch_stream.run_spec import RunSpec

__all__ = ["RunSnapshot", "Savings", "snapshot"]


@dataclass(frozen=True, kw_only=True)
class Savings:
    """The savings over the epochs that every rank has ended, as counted by the ranks.

    Args:
        epochs_ended: number of these epochs.
        trained: samples trained in these epochs.
        full: samples that these epochs would have trained without pruning.
    """

    epochs_ended: int
    trained: int
    full: int

    @property
    def saved(self) -> int:
        """Samples that were not trained."""
        return max(0, self.full - self.trained)

    @property
    def share(self) -> float | None:
        """`saved` / `full`, in [0, 1]; None before the first such epoch."""
        return self.saved / self.full if self.full else None


@dataclass(frozen=True, kw_only=True)
class RunSnapshot:
    """A run at one moment.

    Args:
        run_id: 16 bytes.
        spec: the run's spec.
        full_samples: samples that an unpruned epoch trains.
        state: the state of the last transaction.
        lease: the job that holds the run; None if no job does.
        stored_scores: scores accepted since the run was created.
        rejected_scores: NaN and infinite scores since the run was created.
        stale_scores: scores that were older than the sample's, since the server started.
        dropped_samples: samples that are remembered as dropped by the pipeline.
    """

    run_id: bytes
    spec: RunSpec
    full_samples: int
    state: RunState
    lease: Lease | None
    stored_scores: int
    rejected_scores: int
    stale_scores: int
    dropped_samples: int

    @property
    def savings(self) -> Savings:
        """The savings of pruning so far."""
        ended, lines = self.state.ended, dict(self.history)
        full = sum(lines[epoch].kept + lines[epoch].pruned if epoch in lines else self.full_samples for epoch in ended)
        left_out = sum(self.state.left_out.values())  # these would not have been trained without pruning either
        return Savings(epochs_ended=len(ended), trained=sum(ended.values()), full=full - left_out)

    @property
    def history(self) -> list[tuple[int, PlanLine]]:
        """(epoch, plan that the job trains) of every epoch so far."""
        full = PlanLine(kept=self.full_samples, pruned=0, threshold=None, unpruned=True)
        state = self.state
        return sorted((state.drawn | dict.fromkeys(state.unpruned, full)).items(), key=lambda entry: entry[0])


def snapshot(run: Run) -> RunSnapshot:
    """Takes a snapshot of a run."""
    core = run.core
    with core.lock:
        state = core.state
        return RunSnapshot(
            run_id=core.run_id,
            spec=core.spec,
            full_samples=core.full_samples,
            state=state,
            lease=state.lease if core.lease_left_s > 0 else None,
            stored_scores=core.feed.stored_scores,
            rejected_scores=core.feed.rejected_scores,
            stale_scores=core.feed.stale_scores,
            dropped_samples=core.feed.table.dropped.count,
        )
