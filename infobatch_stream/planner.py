"""Draws an epoch plan: a policy's classes, the static mask, unpruned epochs and the draw, put together.

The paper's Eq. 4 in code: `draw_plan` here asks the policy for classes (`pruning.policies.infobatch`), which compares
scores with the threshold by the one line in `pruning.policies.pruned_class.beyond`; `pruning.draw` then draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from infobatch_stream.philox import Stream, WordStream
from infobatch_stream.plan.epoch_plan import EpochPlan, PlanClass, PlanGroup, kept_by_shard
from infobatch_stream.pruning.answer import checked_classes
from infobatch_stream.pruning.draw import CodesOf, Drawn, class_sizes, draw_bernoulli, draw_exact, exact_count
from infobatch_stream.pruning.group_classes import GroupAnswer, classes_by_group, scores_of
from infobatch_stream.pruning.groups import Groups
from infobatch_stream.pruning.policies import KEPT, Classification, ClassRow, Policy, ScoreView, one_class
from infobatch_stream.pruning.threshold import mean_threshold
from infobatch_stream.ratios import LANES
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.scores.blocks import Mask, MaskedScores, blocks, count_scored
from infobatch_stream.scores.dropped import DroppedSamples, WithoutDropped
from infobatch_stream.scores.table import ScoreTable

__all__ = ["draw_plan", "seed_after_import"]

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
    draw_seed: int | None = None,
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
        draw_seed: in place of the spec's seed, of a run into which scores were imported: `seed_after_import`. The
            plan's order keeps the spec's.
    """
    policy, position = spec.policy, spec.schedule.position(epoch)
    unpruned = spec.schedule.is_unpruned(epoch)
    dropped = table.dropped if without_dropped and table.dropped.count else None
    mask = spec.subset if dropped is None else WithoutDropped(spec.subset, dropped)
    view = _view(spec, table, mask)
    groups, answers = view.groups, list[GroupAnswer | None]()
    group_samples = [] if groups is None else _group_samples(groups, spec.num_samples, mask)
    if unpruned:
        classified = Classification(codes=one_class, rows=(KEPT,))
    elif groups is not None and policy.per_group:
        classified, answers = classes_by_group(policy, view, groups, group_samples, position)
    else:
        classified = checked_classes(policy, view, position)
    codes, rows = _with_mask(classified, spec.subset, dropped)
    words = WordStream(spec.seed if draw_seed is None else draw_seed, epoch, generation, Stream.DRAW)
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
    shard_kept = kept_by_shard(drawn.keep_bits, spec.shard_sizes)
    return EpochPlan(
        run_id=run_id,
        generation=generation,
        epoch=epoch,
        seed=spec.seed,
        num_samples=spec.num_samples,
        classes=classes,
        keep_bits=drawn.keep_bits,
        class_plane=drawn.class_plane,
        shard_kept=shard_kept,
        order=spec.order,
        threshold=classified.threshold,
        low_share=_share(classified.cut_size, classified.cut_class, drawn, num_scored),
        never_scored=view.num_samples - num_scored,
        prune_requested=classified.prune_requested,
        journal_position=journal_position,
        biased=not unpruned and (policy.biased or drops),
        unpruned=unpruned,
        groups=() if groups is None else _plan_groups(view, groups, group_samples, answers, drawn, shard_kept),
    )


def seed_after_import(seed: int, table: ScoreTable) -> int:
    """The seed of draws from a table into which scores were imported, in [0, 2⁶⁴).

    The scores may come from a run of the same seed, whose uniforms have shaped them: samples that were kept have newer,
    lower scores. The same uniforms again would be biased. A seed that depends on the scores has shaped none of them;
    and the same scores give the same seed, in however many calls they were imported.

    Args:
        seed: the run's.
        table: as it is at the first draw after the import.
    """
    digest = hashlib.blake2b(seed.to_bytes(8, "little") + table.digest(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def _view(spec: RunSpec, table: ScoreTable, mask: Mask | None) -> ScoreView:
    score = _read_only(table.score)
    num_samples = spec.subset_samples or spec.num_samples
    if mask is not spec.subset and mask is not None:
        num_samples = sum(int(np.count_nonzero(mask[part])) for part in blocks(spec.num_samples))
    return ScoreView(
        score if mask is None else MaskedScores(score, mask),
        _read_only(table.stamp),
        _read_only(table.visits),
        num_samples,
        {name: _read_only(values) for name, values in table.extra.items()},
        spec.groups,
    )


def _read_only(values: npt.NDArray[T]) -> npt.NDArray[T]:
    """A view that a policy can't change the table through."""
    view: npt.NDArray[T] = values.view()
    view.flags.writeable = False
    return view


def _group_samples(groups: Groups, num_samples: int, mask: Mask | None) -> list[int]:
    """Samples by group that may be trained."""
    if mask is None:
        return groups.sums(groups.shard_sizes)
    bits = [np.packbits(mask[part], bitorder="little") for part in blocks(num_samples)]  # of whole bytes
    return groups.sums(kept_by_shard(np.concatenate(bits), groups.shard_sizes))


def _plan_groups(
    view: ScoreView,
    groups: Groups,
    samples: Sequence[int],
    answers: Sequence[GroupAnswer | None],
    drawn: Drawn,
    shard_kept: npt.NDArray[np.int64],
) -> tuple[PlanGroup, ...]:
    """The groups' figures, with `answers` of a policy that was asked about each."""
    kept, figures = groups.sums(shard_kept), []
    for code, name in enumerate(groups.names):
        mean = mean_threshold(scores_of(view, groups.ranges.of(code)))
        answer = answers[code] if answers else None
        threshold, low_share = None, None
        if answer is not None:
            threshold = answer.classification.threshold
            low_share = _share(answer.classification.cut_size, answer.cut_code, drawn, mean.num_scored)
        figures.append(
            PlanGroup(
                name=name,
                samples=samples[code],
                scored=mean.num_scored,
                kept=kept[code],
                threshold=threshold,
                low_share=low_share,
                mean_score=mean.value,
            )
        )
    return tuple(figures)


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


def _share(cut_size: int | None, cut_code: int | None, drawn: Drawn, num_scored: int) -> float | None:
    """The share of the scored samples that is beyond the threshold, a float that float32 holds exactly."""
    if cut_code is None or not num_scored:
        return None
    return float(np.float32((int(drawn.sizes[cut_code]) if cut_size is None else cut_size) / num_scored))


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
