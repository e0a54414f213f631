"""The epoch plan: which samples are kept in one epoch, with which weight. Frozen once drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from infobatch_stream.copies import GivesCopies
from infobatch_stream.errors import PlanError
from infobatch_stream.plan.order_params import ORDER_VERSION, OrderParams

__all__ = [
    "EpochPlan",
    "PlanClass",
    "PlanGroup",
    "check_arrays",
    "full_plan_id",
    "kept_by_shard",
    "plane_bytes",
    "unpruned_plan",
]

_COUNTED_BYTES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class PlanClass:
    """One class of a plan.

    Args:
        name: as statistics show it.
        keep_65536: k of a Bernoulli draw; None if the draw was exact.
        keep_count: number of samples that an exact draw keeps; None if the draw was Bernoulli.
        size: samples in the class.
        kept: samples kept of it.
        weight: of a kept sample; a float that float32 holds exactly.
    """

    name: str
    keep_65536: int | None
    keep_count: int | None
    size: int
    kept: int
    weight: float


@dataclass(frozen=True, kw_only=True)
class PlanGroup:
    """The figures of one group of shards in a plan.

    Args:
        name: the group's.
        samples: its samples that may be trained.
        scored: those that had a score when the plan was drawn.
        kept: those that the plan keeps.
        threshold: the group's own, if the policy has one for each group; a float that float32 holds exactly.
        low_share: the share of the scored samples beyond that threshold; a float that float32 holds exactly.
        mean_score: of the scored samples, rounded up to a float32; None if there are none.
    """

    name: str
    samples: int
    scored: int
    kept: int
    threshold: float | None = None
    low_share: float | None = None
    mean_score: float | None = None

    @property
    def pruned(self) -> int:
        """Samples that may be trained, and that this epoch leaves out."""
        return self.samples - self.kept


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochPlan:
    """The kept samples of one epoch of one run, and their weights.

    Immutable; its arrays may be views of a file that several processes map. Only `for_callers` gives them to a user.

    Args:
        plan_id: `<run id>-<generation>-<epoch>-<digest>`, or `full:<run id>:<epoch>`; "" before it is sealed.
        run_id: 16 bytes.
        generation: that of the id; draw and order use it in every resumed training too.
        epoch: the epoch it is for.
        seed: the run's.
        num_samples: N.
        classes: by class code.
        keep_bits: uint8 (⌈N/8⌉,), one bit a sample, LSB first.
        class_plane: uint8: None for one class, (⌈N/8⌉,) bits for two, (N,) codes for more.
        shard_kept: int64 (S,), kept samples by shard.
        order: how they are ordered.
        order_version: the version of the order's rules.
        threshold: float32 value, if the policy has one.
        low_share: share of the scored samples in the pruned class, if a threshold decides the class.
        never_scored: samples without a score when it was drawn.
        prune_requested: samples that the policy tries to prune; 0 if it has no such number.
        journal_position: the last position of the journal whose scores were used.
        biased: Σ weight·g is not unbiased for the sum over all samples.
        unpruned: nothing is pruned, every weight is 1.
        groups: the figures of the run's groups, in their order; none if it has none, and in a fallback.
    """

    plan_id: str = ""
    run_id: bytes
    generation: int
    epoch: int
    seed: int
    num_samples: int
    classes: tuple[PlanClass, ...]
    keep_bits: npt.NDArray[np.uint8]
    class_plane: npt.NDArray[np.uint8] | None
    shard_kept: npt.NDArray[np.int64]
    order: OrderParams
    order_version: int = ORDER_VERSION
    threshold: float | None = None
    low_share: float | None = None
    never_scored: int = 0
    prune_requested: int = 0
    journal_position: int = 0
    biased: bool = False
    unpruned: bool = False
    groups: tuple[PlanGroup, ...] = ()

    @property
    def kept(self) -> int:
        """K, the kept samples."""
        return sum(row.kept for row in self.classes)

    @property
    def pruned(self) -> int:
        """Samples that this epoch leaves out, without those of `excluded` and `dropped`, which no epoch keeps."""
        return sum(row.size - row.kept for row in self.classes if row.name not in ("excluded", "dropped"))

    @property
    def dropped(self) -> int:
        """Samples that the pipeline dropped in earlier epochs, and that are left out for that."""
        return sum(row.size for row in self.classes if row.name == "dropped")

    def with_id(self, digest: bytes) -> EpochPlan:
        """The same plan with the id that follows from its digest."""
        return replace(self, plan_id=f"{self.run_id.hex()}-{self.generation}-{self.epoch}-{digest.hex()}")

    def for_callers(self) -> EpochPlan:
        """The same plan, each of whose arrays comes as a new copy, so that nobody can write into this one's."""
        plan = object.__new__(_PlanOfCopies)
        vars(plan).update(vars(self))
        return plan

    def kept_between(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Indices of the kept samples in [start, stop), ascending, int64."""
        first = start // 8
        keep_bits: npt.NDArray[np.uint8] = vars(self)["keep_bits"]
        bits = np.unpackbits(keep_bits[first : -(-stop // 8)], bitorder="little")
        return np.flatnonzero(bits[start - 8 * first : stop - 8 * first]) + start

    def codes(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Class codes (n,) of samples (n,), uint8."""
        plane: npt.NDArray[np.uint8] | None = vars(self)["class_plane"]
        if plane is None:
            return np.zeros(len(indices), np.uint8)
        if len(self.classes) == 2:
            shift = (indices & 7).astype(np.uint8)
            codes: npt.NDArray[np.uint8] = (plane[indices >> 3] >> shift) & np.uint8(1)
        else:
            codes = plane[indices]
        return codes

    def weights(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Weights (n,) of kept samples (n,), float32."""
        table = np.array([row.weight for row in self.classes], np.float32)
        return table[self.codes(indices)]


class _PlanOfCopies(GivesCopies, EpochPlan):
    """A plan as a user has it."""


def plane_bytes(num_samples: int, num_classes: int) -> int:
    """Bytes of the plane that tells the classes apart; 0 if there is only one class."""
    return {1: 0, 2: -(-num_samples // 8)}.get(num_classes, num_samples)


def check_arrays(plan: EpochPlan, num_shards: int) -> None:
    """Raises PlanError if the arrays of a received plan don't fit its numbers.

    Only the digest tells whether they are the right arrays.
    """
    if not plan.classes or sum(row.size for row in plan.classes) != plan.num_samples:
        raise PlanError(f"the classes of the plan don't add up to {plan.num_samples} samples")
    lengths = {
        "keep_bits": (len(plan.keep_bits), -(-plan.num_samples // 8)),
        "class_plane": (
            0 if plan.class_plane is None else len(plan.class_plane),
            plane_bytes(plan.num_samples, len(plan.classes)),
        ),
        "shard_kept": (len(plan.shard_kept), max(1, num_shards)),
    }
    for name, (length, expected) in lengths.items():
        if length != expected:
            raise PlanError(f"{name} of the plan has {length} entries, not {expected}")
    if plan.groups and sum(group.kept for group in plan.groups) != plan.kept:
        raise PlanError(f"the kept samples of the plan's groups don't add up to {plan.kept}")
    if int(plan.shard_kept.min()) < 0 or int(plan.shard_kept.sum()) != plan.kept:
        raise PlanError(f"the kept samples of the plan's shards don't add up to {plan.kept}")


def full_plan_id(run_id: bytes, epoch: int) -> str:
    """The id of the unpruned fallback, which every rank can compute without a server."""
    return f"full:{run_id.hex()}:{epoch}"


def unpruned_plan(
    *,
    run_id: bytes,
    epoch: int,
    seed: int,
    shard_sizes: npt.NDArray[np.int64],
    order: OrderParams,
    subset: npt.NDArray[np.bool_] | None = None,
) -> EpochPlan:
    """The fallback plan `full:<run id>:<epoch>` of generation 0: every sample (of the mask), weight 1.

    Args:
        run_id: 16 bytes.
        epoch: the epoch.
        seed: the run's, for the order.
        shard_sizes: int64 (S,), each ≥ 0.
        order: how the samples are ordered.
        subset: bool (N,), the static mask, or None.
    """
    num_samples = int(shard_sizes.sum())
    if subset is None:
        keep = np.full(-(-num_samples // 8), 255, np.uint8)
        if num_samples % 8:
            keep[-1] = (1 << num_samples % 8) - 1
        classes: tuple[PlanClass, ...] = (_always("kept", num_samples, kept=True),)
        plane, shard_kept = None, shard_sizes.astype(np.int64)
    else:
        chosen = int(np.count_nonzero(subset))
        keep = np.packbits(subset, bitorder="little")
        classes = (_always("kept", chosen, kept=True), _always("excluded", num_samples - chosen, kept=False))
        plane = np.packbits(~subset, bitorder="little")
        shard_kept = kept_by_shard(keep, shard_sizes)
    return EpochPlan(
        plan_id=full_plan_id(run_id, epoch),
        run_id=run_id,
        generation=0,
        epoch=epoch,
        seed=seed,
        num_samples=num_samples,
        classes=classes,
        keep_bits=keep,
        class_plane=plane,
        shard_kept=shard_kept,
        order=order,
        unpruned=True,
    )


def kept_by_shard(keep_bits: npt.NDArray[np.uint8], shard_sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Kept samples by shard, int64 (S,), of keep bits (⌈N/8⌉,) and sizes (S,)."""
    ends = np.cumsum(shard_sizes)
    counts = np.zeros(len(ends) + 1, np.int64)  # of kept samples before each shard's end
    kept, done = 0, 0
    for first in range(0, len(keep_bits), _COUNTED_BYTES):
        part = keep_bits[first : first + _COUNTED_BYTES]
        words = np.zeros(len(part) // 8 + 1, "<u8")  # one more than the full ones, for an end behind the last
        words.view(np.uint8)[: len(part)] = part
        before = np.cumsum(_ones(words), dtype=np.int64)
        stop = int(np.searchsorted(ends, 8 * (first + len(part)), side="right"))
        places = ends[done:stop] - 8 * first
        inside = words[places >> 6] & ((np.uint64(1) << (places & 63).astype(np.uint64)) - np.uint64(1))
        counts[done + 1 : stop + 1] = kept + np.r_[0, before][places >> 6] + _ones(inside)
        kept += int(before[-1])
        done = stop
    return np.diff(counts)


def _ones(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Set bits of each word, int64: summed within pairs, then fours, then bytes."""
    pairs = words - ((words >> np.uint64(1)) & np.uint64(0x5555555555555555))
    fours = (pairs & np.uint64(0x3333333333333333)) + ((pairs >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bytes_ = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    ones: npt.NDArray[np.int64] = ((bytes_ * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.int64)
    return ones


def _always(name: str, size: int, *, kept: bool) -> PlanClass:
    return PlanClass(
        name=name,
        keep_65536=65536 if kept else 0,
        keep_count=None,
        size=size,
        kept=size if kept else 0,
        weight=1.0 if kept else 0.0,
    )
