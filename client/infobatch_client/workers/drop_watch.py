"""Finds out early that a pipeline drops many samples, and says so once: every drop costs a row of weight 0."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infobatch_client.workers.kept_pattern import can_be_every
from infobatch_client.workers.pass_control import WARNED_OF_DROPS, PassControl
from infobatch_client.workers.sample_choice import differ
from infobatch_stream.plan.epoch_plan import EpochPlan

__all__ = ["DropWatch"]

_SHARE = 0.05
_FEW_SAMPLES = 20  # of so few, one or two are no share
_EARLY_SAMPLES = 64  # before so many, an epoch that isn't over says too little
_EARLY_SD = 4.0  # so often is the share looked at that three would mislead
_FEW_KEPT = 8  # of so few, every n-th may be chance
_PATIENCE = 1024  # samples of each worker, by which a split shows


_FILLED = (
    "Repeats of weight 0 take their rows, so that the number of steps stays, mean losses are too small, and BatchNorm "
    "sees copies"
)
_COMPACT = "The number of steps stays, so that batches are short, and mean losses too small"


@dataclass(frozen=True, eq=False)
class DropWatch:
    """Looks at the samples that the workers of this process have read and dropped in the present pass.

    Args:
        control: where they note them.
        trains: a run is trained, rather than a validation set read.
        remembers: what is dropped is left out of later plans.
        fills: rows of weight 0 take the places of dropped samples; without, only a split over workers or ranks is
            remarkable.
        compact: batches have their real rows only.
    """

    control: PassControl
    trains: bool
    remembers: bool = False
    fills: bool = True
    compact: bool = False

    def find(self, world_size: int, *, over: bool, plan: EpochPlan | None = None) -> str | None:
        """What to warn of: more than 5 % dropped, for certain if the pass isn't over. None from the second time on.

        If drops are remembered, only a plan that leaves some out already makes them remarkable: the pipeline then
        drops samples that it gave before.

        Args:
            world_size: ranks of the job.
            over: every sample of the pass has been read.
            plan: the epoch's, with its order; None for index order.
        """
        if self.control.warned(WARNED_OF_DROPS):
            return None
        workers = self.control.samples
        read, dropped = map(int, workers[:, 1:3].sum(0))
        if not _exceeds(read, dropped, over=over):
            return None
        if not over and np.count_nonzero(workers[:, 1]) < workers[0, 0]:
            return None  # each worker shows whether the drops depend on it
        if self.remembers and (plan is None or not plan.dropped or dropped <= plan.never_scored):
            return None
        split = _split(workers, world_size, plan)
        every = _every_nth(workers, world_size)
        if every and not split and not over and read < _PATIENCE * len(workers):
            return None  # the next samples may show that it is one
        if not (self.fills or split or every) or not self.control.warn_once(WARNED_OF_DROPS):
            return None
        so_far = "" if over else " so far"
        found = f"the pipeline has dropped {dropped:,} of {read:,} samples{so_far} in this epoch ({dropped / read:.1%})"
        if self.remembers:
            return (
                f"{found}, though the plan leaves out the {plan.dropped if plan else 0:,} that it dropped before: it "
                "doesn't decide alike in every epoch, and with drops='remember' the data set shrinks from epoch to "
                "epoch. Use drops='fill'; `infobatch forget-drops RUN` brings back what was left out"
            )
        if not self.fills:
            return f"{found}{split}. If it isn't a filter of yours that drops them, leave that stage out: it loses them"
        remedy = (
            "Give the run the other samples only: subset= takes them (select_samples(shards, predicate) finds them), "
            "and drops='remember' leaves out of later epochs what a filter has dropped, if it always decides alike"
            if self.trains
            else "subset= leaves them out (select_samples(shards, predicate) finds the others), and saves the steps"
        )
        return (
            f"{found}. {_COMPACT if self.compact else _FILLED}. {remedy}; a stage that splits samples over workers or "
            f"ranks must be left out{split}"
        )


def _exceeds(read: int, dropped: int, *, over: bool) -> bool:
    """Whether more than 5 % were dropped; before the pass is over, more than chance would make of 5 %."""
    if over:
        return dropped > _SHARE * read and dropped >= (2 if read >= _FEW_SAMPLES else 3)
    deviation = math.sqrt(_SHARE * (1 - _SHARE) * read)
    return read >= _EARLY_SAMPLES and dropped > _SHARE * read + _EARLY_SD * deviation


def _split(workers: npt.NDArray[np.int64], world_size: int, plan: EpochPlan | None) -> str:
    """The hint that the drops follow the number of worker or rank; "" without evidence.

    A filter looks at samples, a splitter at positions. Equal distances between kept samples are a splitter's work if
    they can't be a choice by the sample: `SampleChoice` says so. Workers that drop different shares show it if each
    reads samples of all shards: with several lanes, each may read one lane.
    """
    read, dropped = workers[:, 1], workers[:, 2]
    order = None if plan is None else plan.order
    is_mixed = order is not None and order.run_samples == order.lanes == 1
    is_mixed = is_mixed and plan is not None and plan.order.window_shards >= len(plan.shard_kept)
    share = dropped / read.clip(1)
    if is_mixed and len(read) > 1 and int(read.min()) >= _EARLY_SAMPLES // 2 and float(np.ptp(share)) > 0.5:
        shares = ", ".join(f"{part:.0%}" for part in share[:8])
        return f" (the workers drop {shares}: it depends on the worker's number)"
    every = _every_nth(workers, world_size)
    if not every or not (workers[:, 5].any() or differ(workers[:, 6].tolist())):
        return ""
    return (
        f" (each worker keeps exactly one in {every} of the samples that it reads, at equal distances, as "
        "wds.split_by_worker and split_by_node do: here each worker is given samples of its own)"
    )


def _every_nth(workers: npt.NDArray[np.int64], world_size: int) -> int:
    """n, if each worker keeps exactly every n-th of its samples, and n is a number of parts to split into; else 0."""
    num_workers = int(workers[0, 0])
    if int((workers[:, 1] - workers[:, 2]).sum()) < _FEW_KEPT:
        return 0
    for parts in sorted({num_workers, world_size, num_workers * world_size} - {1}):
        if all(can_be_every(parts, stride, first, read) for _, read, _, stride, first, *_ in workers.tolist()):
            return parts
    return 0
