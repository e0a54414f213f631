"""A policy with a column of each kind that folds: a value that is folded twice, or not at all, is another one."""

from __future__ import annotations

from pathlib import Path

from tests.policy_distribution import unpack_policy

__all__ = ["COLUMNS", "install_columns"]

COLUMNS = "durable_columns"
"""Its name."""

_SOURCE = """
from dataclasses import dataclass
from typing import ClassVar
from infobatch_stream.pruning.policies import ColumnSpec, InfoBatch

@dataclass(frozen=True, kw_only=True)
class Mine(InfoBatch):
    name: ClassVar[str] = "durable_columns"
    columns: ClassVar[tuple[ColumnSpec, ...]] = (
        ColumnSpec(name="margin", dtype="float64", fold="ema", ema_weight="0.25"),
        ColumnSpec(name="hits", dtype="uint8", fold="streak", condition=">= 0.5"),
        ColumnSpec(name="before", fold="previous", source="score"),
    )
"""


def install_columns(folder: Path) -> None:
    """Puts the policy into a folder that is, or will be, on sys.path."""
    unpack_policy(folder, "dist_durable_columns", _SOURCE, {COLUMNS: "Mine"})
