"""The four numbers that fix a run's plan order, and their defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace

from infobatch_stream.errors import ConfigError
from infobatch_stream.keywords import suggesting

__all__ = ["ORDER_VERSION", "OrderChoice", "OrderParams"]

ORDER_VERSION = 1
"""The version of the rules in infobatch_stream.plan.order; stored in run, plan and resume state."""

_WINDOW_SAMPLES = 2**22
_FIELDS = ("lanes", "stripe", "window_shards", "run_samples")


@dataclass(frozen=True, kw_only=True)
class OrderParams:
    """How an epoch's kept samples are ordered; fixed when the run is created.

    Args:
        lanes: L ≥ 1 contiguous pieces of the shard order, read in parallel; the number of nodes by default.
        stripe: m ≥ 1 positions in a row from one lane.
        window_shards: W ≥ 1 consecutive shards whose kept samples are permuted together.
        run_samples: c ≥ 1 consecutive kept samples that stay together.
    """

    lanes: int
    stripe: int
    window_shards: int
    run_samples: int = 1

    def __post_init__(self) -> None:
        for name in _FIELDS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.lanes > 2**20:
            raise ConfigError(f"lanes={self.lanes} is over 1,048,576; it is usually the number of nodes")

    @classmethod
    def default(cls, *, num_samples: int, num_shards: int, lanes: int, global_batch: int) -> OrderParams:
        """m = max(1, ⌊G/lanes⌋) for a global batch of G; W as many shards as hold about 2²² samples; c = 1."""
        shard_samples = -(-num_samples // num_shards)
        return cls(
            lanes=lanes,
            stripe=max(1, global_batch // lanes),
            window_shards=min(num_shards, max(1, _WINDOW_SAMPLES // max(1, shard_samples))),
        )


@suggesting
@dataclass(frozen=True, kw_only=True)
class OrderChoice:
    """The fields of OrderParams that a user has set; None means "the run's, else the default"."""

    lanes: int | None = None
    stripe: int | None = None
    window_shards: int | None = None
    run_samples: int | None = None

    def over(self, base: OrderParams) -> OrderParams:
        """`base` with the fields that are set here."""
        return replace(base, **{name: value for name in _FIELDS if (value := getattr(self, name)) is not None})

    def conflicts(self, stored: OrderParams) -> list[str]:
        """A line for each field that is set here and differs in `stored`."""
        return [
            f"{name}: the run has {getattr(stored, name)}, this job asks for {value}"
            for name in _FIELDS
            if (value := getattr(self, name)) is not None and value != getattr(stored, name)
        ]
