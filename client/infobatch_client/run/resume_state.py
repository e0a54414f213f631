"""The position of a training as a checkpoint stores it: the same dict on every rank, loadable on any number of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from infobatch_stream.errors import StateError
from infobatch_stream.manifest import Manifest
from infobatch_stream.plan.order_params import ORDER_VERSION
from infobatch_stream.run_spec import RunSpec

__all__ = ["FORMAT", "ResumeState"]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ResumeState:
    """A position in a run.

    Args:
        run: the run's name.
        run_id: 32 hex digits; None before the first attach.
        plan_id: of the open epoch; None at the start of an epoch.
        manifest_fingerprint: 64 hex digits.
        lanes, stripe, window_shards, run_samples: the plan order's.
        seed: the run's.
        epoch: the open epoch, or the next one.
        positions: consumed over all ranks; with all consumed the next epoch is next.
        epoch_positions: of the open epoch; 0 at the start of an epoch.
    """

    run: str
    run_id: str | None
    plan_id: str | None
    manifest_fingerprint: str
    order_version: int = ORDER_VERSION
    lanes: int
    stripe: int
    window_shards: int
    run_samples: int
    seed: int
    epoch: int
    positions: int
    epoch_positions: int
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """A dict of plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> ResumeState:
        """The state in a dict.

        Raises:
            StateError: another format, or a field that is missing, unknown or of another type.
        """
        if not isinstance(state, Mapping) or state.get("format") != FORMAT:
            other = state.get("format") if isinstance(state, Mapping) else type(state).__name__
            raise StateError(
                f"this is no resume state of format {FORMAT} (found {other!r}); pass what state_dict() of a loader or "
                "dataset returned"
            )
        fields = cls.__dataclass_fields__
        if wrong := sorted(fields.keys() ^ state.keys()):
            raise StateError(f"the resume state has other fields than format {FORMAT}: {', '.join(wrong)}")
        for name, field in fields.items():
            kinds = {"str": (str,), "int": (int,), "bool": (bool,), "str | None": (str, type(None))}[str(field.type)]
            if not isinstance(state[name], kinds) or (kinds == (int,) and isinstance(state[name], bool)):
                raise StateError(f"the resume state's {name} is {state[name]!r}, not of type {field.type}")
        resumed = cls(**state)
        if resumed.run_id is None and (resumed.epoch or resumed.positions):
            raise StateError(f"the resume state is at epoch {resumed.epoch} and names no run_id; it is damaged")
        if resumed.epoch < 0 or not 0 <= resumed.positions <= resumed.epoch_positions:
            raise StateError(
                f"the resume state is at epoch {resumed.epoch}, position {resumed.positions} of "
                f"{resumed.epoch_positions}"
            )
        return resumed

    @property
    def finished(self) -> bool:
        """Whether all of the epoch's positions are consumed."""
        return 0 < self.epoch_positions == self.positions

    @property
    def next_epoch(self) -> int:
        """The epoch at which training resumes."""
        return self.epoch + 1 if self.finished else self.epoch

    @property
    def inside(self) -> bool:
        """Whether training resumes inside an epoch, with that epoch's own plan."""
        return not self.finished and self.plan_id is not None and self.positions > 0

    @property
    def progress(self) -> float:
        """`InfoBatchLoader.progress()` at the checkpoint."""
        return self.next_epoch + (self.positions / self.epoch_positions if self.inside else 0.0)

    @property
    def place(self) -> str:
        """The position at which training resumes, in words."""
        at = f"position {self.positions} of plan {self.plan_id}" if self.inside else "its start"
        return f"epoch {self.next_epoch} of run {self.run} at {at}"

    def check_dataset(self, manifest: Manifest, seed: int) -> None:
        """Raises StateError if the state is of other shards or of another seed."""
        if self.manifest_fingerprint != manifest.fingerprint.hex():
            raise StateError(
                f"manifest_fingerprint: the state has {self.manifest_fingerprint}, these shards have "
                f"{manifest.fingerprint.hex()}; load it with the shards it was saved with, in the same order"
                f"{manifest.left_out_hint}"
            )
        if self.seed != seed:
            raise StateError(f"seed: the state has {self.seed}, this dataset asks for {seed}")

    def check(self, spec: RunSpec, run_id: bytes) -> None:
        """Raises StateError, naming each field, if the state belongs to another run, data set or order."""
        expected = {
            "run": spec.run,
            "run_id": run_id.hex(),
            "manifest_fingerprint": spec.manifest_fingerprint.hex(),
            "order_version": spec.order_version,
            **asdict(spec.order),
            "seed": spec.seed,
        }
        wrong = [
            f"{name}: the state has {getattr(self, name)}, the run {value}"
            for name, value in expected.items()
            if getattr(self, name) not in (value, None)
        ]
        if wrong:
            raise StateError("the resume state belongs to another run or data set: " + "; ".join(wrong))
