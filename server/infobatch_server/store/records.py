"""A run's state as the rows that keep it: one for the run, one for each epoch, one for each mark."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any, TypeVar

from infobatch_server.state.run_state import EpochMark, Lease, PlanLine, PlanSummary, RunState
from infobatch_stream.plan.epoch_plan import PlanClass, PlanGroup
from infobatch_stream.row_counts import RowCounts

__all__ = ["epoch_rows", "mark_from_row", "mark_row", "state_from_rows", "state_row"]

_BY_EPOCH = ("drawn", "ended", "left_out", "unpruned")

T = TypeVar("T")


def state_row(state: RunState) -> str:
    """All of a state but its figures by epoch, as JSON."""
    return _dumps({name: value for name, value in _plain(state).items() if name not in _BY_EPOCH})


def epoch_rows(state: RunState) -> dict[int, str]:
    """A state's figures by epoch, each as JSON."""
    rows: dict[int, dict[str, object]] = {epoch: {"unpruned": True} for epoch in state.unpruned}
    for epoch, line in state.drawn.items():
        rows.setdefault(epoch, {})["drawn"] = asdict(line)
    for name in ("ended", "left_out"):
        for epoch, count in getattr(state, name).items():
            rows.setdefault(epoch, {})[name] = count
    return {epoch: _dumps(row) for epoch, row in rows.items()}


def state_from_rows(row: str, epochs: dict[int, str]) -> RunState:
    """The state of `state_row` and `epoch_rows`."""
    values = json.loads(row)
    if values["lease"] is not None:
        values["lease"] = Lease(**{**values["lease"], "nonce": bytes.fromhex(values["lease"]["nonce"])})
    if values["newest_plan"] is not None:
        values["newest_plan"] = _summary(values["newest_plan"])
    values["plan_ids"] = {int(epoch): plan_id for epoch, plan_id in values["plan_ids"].items()}
    by_epoch = {epoch: json.loads(text) for epoch, text in sorted(epochs.items())}
    return replace(
        RunState(**values),
        drawn={epoch: PlanLine(**values["drawn"]) for epoch, values in by_epoch.items() if "drawn" in values},
        ended={epoch: values["ended"] for epoch, values in by_epoch.items() if "ended" in values},
        left_out={epoch: values["left_out"] for epoch, values in by_epoch.items() if "left_out" in values},
        unpruned=frozenset(epoch for epoch, values in by_epoch.items() if "unpruned" in values),
    )


def mark_row(mark: EpochMark) -> str:
    """A mark as JSON."""
    return _dumps(asdict(mark))


def mark_from_row(row: str) -> EpochMark:
    """The mark of `mark_row`."""
    values = json.loads(row)
    return EpochMark(**{**values, "counts": RowCounts(*values["counts"])})


def _summary(values: dict[str, Any]) -> PlanSummary:
    classes = tuple(PlanClass(**row) for row in values["classes"])
    groups = tuple(PlanGroup(**row) for row in values["groups"])
    return PlanSummary(**{**values, "classes": classes, "groups": groups})


def _plain(state: RunState) -> dict[str, Any]:
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    if state.lease is not None:
        values["lease"] = {**asdict(state.lease), "nonce": state.lease.nonce.hex()}
    if state.newest_plan is not None:
        values["newest_plan"] = asdict(state.newest_plan)
    return values


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
