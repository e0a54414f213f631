"""All that a run's jobs can see of it, as values that can be compared after its server is gone."""

from __future__ import annotations

from dataclasses import dataclass, fields

from infobatch_server.runs.run import Run
from infobatch_server.state.run_state import EpochMark, RunState
from infobatch_server.store.run_files import spec_bytes

__all__ = ["View", "view_of"]


@dataclass(frozen=True)
class View:
    """A run at one moment.

    Args:
        run_id: 16 bytes.
        spec: its message, with shard sizes and mask.
        state: its state.
        table: each array's bytes, by name.
        counters: pushes and all entries so far, scores accepted and rejected.
        marks: of all epochs.
        plans: keep bits and class plane, by id.
        pushed: each pusher's newest push, and which before it are known.
    """

    run_id: bytes
    spec: bytes
    state: RunState
    table: dict[str, bytes]
    counters: tuple[int, ...]
    marks: frozenset[EpochMark]
    plans: dict[str, tuple[bytes, bytes]]
    pushed: dict[bytes, tuple[int, int]]

    def differences(self, other: View) -> list[str]:
        """The names of the fields that differ."""
        return [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]


def view_of(run: Run) -> View:
    """What is seen of a run now."""
    core, spec, feed = run.core, run.spec, run.core.feed
    arrays = {name: values.tobytes() for name, values in feed.table.arrays().items()}
    plans = {}
    for plan_id in core.state.plan_ids.values():
        plan = run.plans.find(plan_id)
        plane = b"" if plan.class_plane is None else plan.class_plane.tobytes()
        plans[plan_id] = plan.keep_bits.tobytes(), plane
    subset = b"" if spec.subset is None else spec.subset.tobytes()
    return View(
        run_id=run.run_id,
        spec=spec_bytes(spec) + spec.shard_sizes.tobytes() + subset,
        state=core.state,
        table={**arrays, "dropped": feed.table.dropped[:].tobytes()},
        counters=(feed.applied_position, feed.applied_entry, feed.stored_scores, feed.rejected_scores),
        marks=frozenset(mark for epoch in range(spec.epochs) for mark in core.barrier.marks(epoch)),
        plans=plans,
        pushed={client: (window._newest, window._stored) for client, window in feed._windows.items() if window._newest},
    )
