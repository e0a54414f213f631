"""Draws an epoch plan: a policy's classes, the static mask, annealing, and the draw, put together (Eq. 3–4)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from infobatch_stream.draw import draw_bernoulli, draw_counts, exact_count
from infobatch_stream.philox import Stream, WordStream
from infobatch_stream.plan import EpochPlan, PlanClass, kept_by_shard
from infobatch_stream.policies import KEPT, Classification, ClassRow, Policy, ScoreView
from infobatch_stream.ratios import LANES
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.score_table import ScoreTable

__all__ = ["draw_plan"]

_EXCLUDED = ClassRow(name="excluded", keep_65536=0)


def draw_plan(
    spec: RunSpec,
    table: ScoreTable,
    *,
    run_id: bytes,
    generation: int,
    epoch: int,
    journal_position: int = 0,
) -> EpochPlan:
    """The plan of one epoch; the same arguments give the same bits everywhere.

    Nothing is allocated by the caller and nothing global is touched. The plan has no id yet: what seals it is its
    digest (infobatch_stream.codec.seal).

    Args:
        spec: the run's.
        table: its scores, unchanged while this runs.
        run_id: 16 bytes.
        generation: from 1; a uniform that decided a plan of one generation decides none of another.
        epoch: the epoch to draw.
        journal_position: kept in the plan, for whoever asks which scores it has seen.
    """
    policy, position = spec.policy, spec.schedule.position(epoch)
    unpruned = epoch >= position.anneal_epoch or policy.name == "full"
    view = _view(spec, table)
    if unpruned:
        made = Classification(codes=np.zeros(spec.num_samples, np.uint8), rows=(KEPT,))
    else:
        made = policy.classes(view, position)
    codes, rows = made.codes, made.rows
    if spec.subset is not None:
        rows = (*rows, _EXCLUDED)
        codes = np.where(spec.subset, codes, np.uint8(len(rows) - 1))
    sizes = np.bincount(codes, minlength=len(rows))
    kept, exact = _draw(codes, rows, sizes, policy, spec.seed, epoch, generation)
    kept_sizes = np.bincount(codes[kept], minlength=len(rows))
    never_scored = view.num_samples - int(np.count_nonzero(~np.isnan(view.score)))
    return EpochPlan(
        run_id=run_id,
        generation=generation,
        epoch=epoch,
        seed=spec.seed,
        num_samples=spec.num_samples,
        classes=tuple(
            _plan_class(row, int(size), int(stay), exact, policy)
            for row, size, stay in zip(rows, sizes, kept_sizes, strict=True)
        ),
        keep_bits=np.packbits(kept, bitorder="little"),
        class_plane=_class_plane(codes, len(rows)),
        shard_kept=kept_by_shard(kept, spec.shard_sizes),
        order=spec.order,
        threshold=made.threshold,
        low_share=None if made.low_share is None else float(np.float32(made.low_share)),
        never_scored=never_scored,
        prune_requested=made.prune_requested,
        journal_position=journal_position,
        biased=policy.biased and not unpruned,
        unpruned=unpruned,
    )


def _view(spec: RunSpec, table: ScoreTable) -> ScoreView:
    if spec.subset is None:
        score, num_samples = table.score, table.num_samples
    else:
        score = np.where(spec.subset, table.score, np.float32(np.nan))
        num_samples = int(np.count_nonzero(spec.subset))
    return ScoreView(score, table.stamp, table.visits, num_samples, table.extra)


def _draw(
    codes: npt.NDArray[np.uint8],
    rows: tuple[ClassRow, ...],
    sizes: npt.NDArray[np.int64],
    policy: Policy,
    seed: int,
    epoch: int,
    generation: int,
) -> tuple[npt.NDArray[np.bool_], bool]:
    """Who is kept, bool (N,), and whether the draw was exact."""
    exact = policy.draw == "exact" or any(row.keep_count is not None for row in rows)
    stream = WordStream(seed, epoch, generation, Stream.DRAW)
    if not exact:
        lanes = np.array([row.keep_65536 for row in rows], np.uint32)
        return draw_bernoulli(codes, lanes, stream), False
    counts = np.array(
        [
            min(int(size), row.keep_count) if row.keep_count is not None else exact_count(row.keep_65536, int(size))
            for row, size in zip(rows, sizes, strict=True)
        ],
        np.int64,
    )
    return draw_counts(codes, counts, stream, WordStream(seed, epoch, generation, Stream.TIE_BREAK)), True


def _plan_class(row: ClassRow, size: int, kept: int, exact: bool, policy: Policy) -> PlanClass:
    decided = exact and (row.keep_count is not None or 0 < row.keep_65536 < LANES)
    if not size:
        weight = np.float32(1)
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


def _class_plane(codes: npt.NDArray[np.uint8], num_classes: int) -> npt.NDArray[np.uint8] | None:
    if num_classes == 1:
        return None
    return np.packbits(codes.astype(bool), bitorder="little") if num_classes == 2 else codes
