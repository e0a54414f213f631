"""Draws an epoch plan: a policy's classes, the static mask, unpruned epochs and the draw, put together.

The paper's Eq. 4 in code: `draw_plan` here asks the policy for classes (`pruning.policies.infobatch`), which compares
scores with the threshold by the one line in `pruning.policies.pruned_class.beyond`; `pruning.draw` then draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from infobatch_stream.philox import Stream, WordStream
from infobatch_stream.plan.epoch_plan import EpochPlan, PlanClass, kept_by_shard
from infobatch_stream.pruning.answer import checked_classes
from infobatch_stream.pruning.draw import CodesOf, Drawn, class_sizes, draw_bernoulli, draw_exact, exact_count
from infobatch_stream.pruning.policies import KEPT, Classification, ClassRow, Policy, ScoreView, one_class
from infobatch_stream.ratios import LANES
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.scores.blocks import Mask, MaskedScores, blocks, count_scored
from infobatch_stream.scores.dropped import DroppedSamples, WithoutDropped
from infobatch_stream.scores.table import ScoreTable

__all__ = ["draw_plan"]

T = TypeVar("T", bound=np.generic)

_EXCLUDED = ClassRow(name="excluded", keep_65536=0)
_DROPPED = ClassRow(name="dropped", keep_65536=0)


def draw_plan(
    spec: RunSpec,
    table: ScoreTable,
    *,
    run_id: bytes,
    generation: int,
    epoch: int,
    journal_position: int = 0,
    without_dropped: bool = False,
) -> EpochPlan:
    """The plan of one epoch; the same arguments give the same bits everywhere.

    Pure: reads its arguments and touches no global state. The plan has no id yet: its digest seals it
    (infobatch_stream.wire.specs.seal).

    Args:
        spec: the run's.
        table: its scores, unchanged while this runs.
        run_id: 16 bytes.
        generation: from 1; a uniform that decided a plan of one generation decides none of another.
        epoch: the epoch to draw.
        journal_position: kept in the plan; says which scores it has seen.
        without_dropped: leave out the samples that the pipeline dropped, as the static mask leaves out others.
    """
    policy, position = spec.policy, spec.schedule.position(epoch)
    unpruned = spec.schedule.is_unpruned(epoch)
    dropped = table.dropped if without_dropped and table.dropped.count else None
    view = _view(spec, table, dropped)
    classified = Classification(codes=one_class, rows=(KEPT,)) if unpruned else checked_classes(policy, view, position)
    codes, rows = _with_mask(classified, spec.subset, dropped)
    words = WordStream(spec.seed, epoch, generation, Stream.DRAW)
    exact = policy.draw == "exact" or any(row.keep_count is not None for row in rows)
    if exact:
        drawn = _draw_exact(codes, spec.num_samples, rows, words)
    else:
        drawn = draw_bernoulli(codes, spec.num_samples, [row.keep_65536 for row in rows], words)
    num_scored = count_scored(view.score) if classified.num_scored is None else classified.num_scored
    classes = tuple(
        _plan_class(row, size, kept, exact, policy)
        for row, size, kept in zip(rows, drawn.sizes.tolist(), drawn.kept.tolist(), strict=True)
    )
    # No weight makes up for a class of which nothing is kept, whatever the policy says of itself.
    drops = any(row.size and not row.weight for row in classes[: len(classified.rows)])
    return EpochPlan(
        run_id=run_id,
        generation=generation,
        epoch=epoch,
        seed=spec.seed,
        num_samples=spec.num_samples,
        classes=classes,
        keep_bits=drawn.keep_bits,
        class_plane=drawn.class_plane,
        shard_kept=kept_by_shard(drawn.keep_bits, spec.shard_sizes),
        order=spec.order,
        threshold=classified.threshold,
        low_share=_cut_share(classified, drawn, num_scored),
        never_scored=view.num_samples - num_scored,
        prune_requested=classified.prune_requested,
        journal_position=journal_position,
        biased=not unpruned and (policy.biased or drops),
        unpruned=unpruned,
    )


def _view(spec: RunSpec, table: ScoreTable, dropped: DroppedSamples | None) -> ScoreView:
    score = _read_only(table.score)
    mask: Mask | None = spec.subset
    num_samples = spec.subset_samples or spec.num_samples
    if dropped is not None:
        mask = WithoutDropped(mask, dropped)
        num_samples = sum(int(np.count_nonzero(mask[part])) for part in blocks(spec.num_samples))
    return ScoreView(
        score if mask is None else MaskedScores(score, mask),
        _read_only(table.stamp),
        _read_only(table.visits),
        num_samples,
        {name: _read_only(values) for name, values in table.extra.items()},
    )


def _read_only(values: npt.NDArray[T]) -> npt.NDArray[T]:
    """A view that a policy can't change the table through."""
    view: npt.NDArray[T] = values.view()
    view.flags.writeable = False
    return view


def _with_mask(
    classified: Classification, subset: npt.NDArray[np.bool_] | None, dropped: DroppedSamples | None
) -> tuple[CodesOf, tuple[ClassRow, ...]]:
    """Codes and rows, with what the mask excludes and what the pipeline dropped as classes of their own."""
    codes, rows = classified.codes, classified.rows
    if dropped is not None:
        codes, rows = _with_class(codes, dropped.__getitem__, len(rows)), (*rows, _DROPPED)
    if subset is not None:
        mask = subset
        codes, rows = _with_class(codes, lambda part: ~mask[part], len(rows)), (*rows, _EXCLUDED)
    return codes, rows


def _with_class(codes: CodesOf, members: Callable[[slice], npt.NDArray[np.bool_]], code: int) -> CodesOf:
    """Codes in which the members of one more class have its code."""

    def with_class(part: slice) -> npt.NDArray[np.uint8]:
        block: npt.NDArray[np.uint8] = codes(part).copy()  # it may be a view of the policy's array
        np.copyto(block, np.uint8(code), where=members(part))
        return block

    return with_class


def _draw_exact(codes: CodesOf, num_samples: int, rows: tuple[ClassRow, ...], words: WordStream) -> Drawn:
    """The draw in which each class keeps its row's count, or the count that its row's share gives."""

    def counts_of(sizes: npt.NDArray[np.int64]) -> list[int]:
        return [
            exact_count(row.keep_65536, size) if row.keep_count is None else min(size, row.keep_count)
            for row, size in zip(rows, sizes.tolist(), strict=True)
        ]

    expected = [row.keep_65536 for row in rows]
    if any(row.keep_count is not None for row in rows):
        sizes = class_sizes(codes, num_samples, len(rows))
        pairs = zip(counts_of(sizes), sizes.tolist(), strict=True)
        expected = [LANES * count // max(1, size) for count, size in pairs]
    tie_break = WordStream(words.seed, words.epoch, words.generation, Stream.TIE_BREAK)
    return draw_exact(codes, num_samples, expected, counts_of, words, tie_break)


def _cut_share(classified: Classification, drawn: Drawn, num_scored: int) -> float | None:
    """The share of the scored samples that is beyond the threshold, a float that float32 holds exactly."""
    if classified.cut_class is None or not num_scored:
        return None
    cut_size = int(drawn.sizes[classified.cut_class]) if classified.cut_size is None else classified.cut_size
    return float(np.float32(cut_size / num_scored))


def _plan_class(row: ClassRow, size: int, kept: int, exact: bool, policy: Policy) -> PlanClass:
    decided = exact and (row.keep_count is not None or 0 < row.keep_65536 < LANES)
    if not size:
        weight = np.float32(1)
    elif decided and not kept:
        weight = np.float32(0)
    elif decided:
        weight = np.float32(size / kept)
    elif row.keep_65536:
        weight = np.float32(LANES / row.keep_65536)
    else:
        weight = np.float32(0)
    if weight and not policy.rescale:
        weight = np.float32(1)
    return PlanClass(
        name=row.name,
        keep_65536=None if decided else row.keep_65536,
        keep_count=kept if decided else None,
        size=size,
        kept=kept,
        weight=float(weight),
    )
