"""A run's spec: everything that identifies one pruning state, checked once and immutable."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.plan.order_params import ORDER_VERSION, OrderParams
from infobatch_stream.pruning.group_classes import check_per_group
from infobatch_stream.pruning.groups import Groups
from infobatch_stream.pruning.policies import Policy
from infobatch_stream.pruning.schedule import Schedule

__all__ = ["RunSpec", "check_run_name"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_run_name(name: str) -> str:
    """`name`; raises ConfigError if it is no valid name of a run."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"run={name!r} can't name a run: use 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter "
            "or digit"
        )
    return name


@dataclass(frozen=True, kw_only=True, eq=False)
class RunSpec:
    """Manifest + policy + epochs + seed + order.

    Args:
        run: the run's name.
        manifest_fingerprint: 32 bytes.
        shard_sizes: int64 (S,), samples by shard, each ≥ 0.
        epochs: C in [1, 65534], the epochs that the policy's schedule is for.
        seed: in [0, 2⁶⁴).
        policy: decides which samples are pruned, with all its settings.
        order: how kept samples are ordered.
        score_name: the name of the pushed number: "loss" by default.
        subset: bool (N,): the static mask; None for all samples.
        groups: of the shards; None without.
    """

    run: str
    manifest_fingerprint: bytes
    shard_sizes: npt.NDArray[np.int64]
    epochs: int
    seed: int
    policy: Policy
    order: OrderParams
    score_name: str = "loss"
    subset: npt.NDArray[np.bool_] | None = None
    groups: Groups | None = None
    order_version: int = ORDER_VERSION

    def __post_init__(self) -> None:
        check_run_name(self.run)
        if len(self.manifest_fingerprint) != 32:
            raise ConfigError(f"manifest fingerprint has {len(self.manifest_fingerprint)} bytes, not 32")
        if not 0 <= self.seed < 2**64:
            raise ConfigError(f"seed={self.seed} is outside [0, 2**64)")
        if not self.score_name or len(self.score_name) > 128:
            raise ConfigError(f"score_name={self.score_name!r} must have 1 to 128 characters")
        assert self.schedule.epochs == self.epochs  # checks the number of epochs
        _check_sizes(self.shard_sizes)
        if self.groups is not None and not np.array_equal(self.groups.shard_sizes, self.shard_sizes):
            raise ConfigError("the groups are of other shards")
        check_per_group(self.policy, self.groups)
        if self.subset is not None:
            if self.subset.dtype != bool or self.subset.shape != (self.num_samples,):
                raise ConfigError(
                    f"subset is {self.subset.dtype} {self.subset.shape}; it must be bool ({self.num_samples},)"
                )
            if not self.subset.any():
                raise ConfigError("subset has no sample in it")

    @cached_property
    def schedule(self) -> Schedule:
        """In which epochs the policy prunes, and how much."""
        return Schedule(epochs=self.epochs, policy=self.policy)

    @cached_property
    def num_samples(self) -> int:
        """N."""
        return int(self.shard_sizes.sum())

    @property
    def num_shards(self) -> int:
        """S."""
        return len(self.shard_sizes)

    @cached_property
    def subset_samples(self) -> int:
        """Samples in the static mask; 0 without one."""
        return 0 if self.subset is None else int(np.count_nonzero(self.subset))

    @cached_property
    def subset_sha256(self) -> bytes:
        """SHA-256 of the mask's bits, LSB first; b"" without one."""
        if self.subset is None:
            return b""
        return hashlib.sha256(np.packbits(self.subset, bitorder="little").tobytes()).digest()

    def differences(self, requested: RunSpec) -> list[str]:
        """A line for each field in which another spec differs, but for the order (see `OrderChoice.conflicts`)."""
        mine, theirs = self._comparable(), requested._comparable()
        return [
            f"{name}: the run has {mine.get(name, 'none')}, this job asks for {theirs.get(name, 'none')}"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ]

    def _comparable(self) -> dict[str, object]:
        return {
            "manifest": self.manifest_fingerprint.hex(),
            "shard sizes": hashlib.sha256(self.shard_sizes.astype("<i8").tobytes()).hexdigest(),
            "samples": self.num_samples,
            "epochs": self.epochs,
            "delta": self.policy.delta,
            "seed": self.seed,
            "policy": self.policy.name,
            **self.policy.params(),
            "score_name": self.score_name,
            "subset": self.subset_sha256.hex() or "none",
            "groups": "none" if self.groups is None else str(self.groups),
            "order_version": self.order_version,
        }


def _check_sizes(sizes: npt.NDArray[np.int64]) -> None:
    if sizes.dtype != np.int64 or sizes.ndim != 1 or not len(sizes):
        raise ConfigError(f"shard sizes are {sizes.dtype} {sizes.shape}; they must be int64 (S,) with S ≥ 1")
    if int(sizes.min()) < 0:
        raise ConfigError(f"shard {int(sizes.argmin())} has {int(sizes.min())} samples")
    # Sizes are below 2⁶³ each; a running sum that turns negative has overflowed.
    if len(sizes) > 1 and int(np.cumsum(sizes).min()) < 0:
        raise ConfigError(f"the sizes of {len(sizes)} shards overflow int64 when summed")
    if not int(sizes.sum()):
        raise ConfigError(f"{len(sizes)} shards hold no sample at all")
