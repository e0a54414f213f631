"""The rows of one worker's batches of one pass: read, passed through the pipeline, filled up."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import get_worker_info

from infobatch_client.plans.files import map_plan
from infobatch_client.tie.chain import TiedChain
from infobatch_client.tie.row_copy import row_copy
from infobatch_client.tie.rows import BatchRows
from infobatch_client.tie.spare_row import spare_row
from infobatch_client.workers.batch_seeds import BatchSeeds
from infobatch_client.workers.pass_control import Pass
from infobatch_client.workers.read_samples import ReadSamples
from infobatch_client.workers.sample_choice import SampleChoice
from infobatch_client.workers.sample_source import SampleSource
from infobatch_stream.errors import PipelineError, ShardError
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.plan.order import PlanOrder
from infobatch_stream.row_counts import RowCounts

__all__ = ["PassBatches"]

_CHUNK_SAMPLES = 512
_ROWS_BY_SEED = 32  # of a pass that isn't read by batches
_log = logging.getLogger(__name__)
_Row = tuple[int, int, float, Any]


class _Tie(NamedTuple):
    step: int
    sample: int
    weight: float


class _Positions:
    """Position → sample index and weight of a pass: by a plan, or every sample (of a subset) in index order."""

    def __init__(self, plan: EpochPlan | None, source: SampleSource) -> None:
        self._plan = plan
        self._subset = source.subset
        self._offsets = offsets = source.offsets
        self.count = int(offsets[-1]) if self._subset is None else len(self._subset)
        if plan is not None:
            self._order = PlanOrder(plan, offsets)
            self.count = plan.kept

    def samples(self, first: int, end: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        if self._plan is None:
            indices = np.arange(first, end, dtype=np.int64) if self._subset is None else self._subset[first:end]
            return indices, np.ones(end - first, np.float32)
        indices = self._order.samples(first, end)
        return indices, self._plan.weights(indices)

    def choice(self) -> SampleChoice:
        return SampleChoice(
            self._offsets,
            shuffled=self._plan is not None and self._plan.order.run_samples == 1,
            dense=self.count == int(self._offsets[-1]),
        )


class PassBatches:
    """The rows of one worker's batches of one pass.

    Args:
        source: samples, and their pipeline.
        pass_: the pass.
        plan: the samples to keep; None: the plan in the pass's file, or without a file every sample in index order.
        finish: of a batch's rows, the batch; None gives the rows themselves.
        draws: `finish` runs user code, which may draw random numbers, as stages do.
        compact: batches have their real rows only, or one that fills if there is none.
        noted: int64 (7,), gets what `ReadSamples` says, after each batch, or after the last row.
    """

    def __init__(
        self,
        source: SampleSource,
        pass_: Pass,
        plan: EpochPlan | None = None,
        *,
        finish: Callable[[BatchRows], Any] | None = None,
        draws: bool = False,
        compact: bool = False,
        noted: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self._source = source
        self._compact = compact
        self.plan = map_plan(pass_.plan_path) if plan is None and pass_.plan_path else plan
        self._positions = _Positions(self.plan, source)
        self._rank = pass_.rank
        self._fills = pass_.fills
        self.opening = pass_.opening(self._positions.count)
        self._steps: Sequence[int] = ()
        self._errors = 0
        self._failed: dict[int, list[int]] = {}  # samples by step
        self._planned: dict[int, npt.NDArray[np.int64]] = {}  # by step, if a stage may drop some
        self._read_samples = ReadSamples(self._positions.choice(), noted)
        self._spare: list[Any] = []  # one row that nobody else has, to fill batches that have no row of their own
        self._reader_error: Exception | None = None
        self._finish = finish
        self._steps_by_seed = 1
        self._seeds: BatchSeeds | None = None
        if source.stages or draws:
            fingerprint = source.reader.manifest.fingerprint
            self._seeds = BatchSeeds(pass_, fingerprint, keeps_own=get_worker_info() is None)

    def batches(self, steps: Sequence[int]) -> Iterator[Any]:
        """The batches of these steps, ascending: `finish`'s, or their `BatchRows`. To be called once."""
        self._steps = steps
        made = self._made(steps)
        return made if self._seeds is None else self._seeds.around(made, steps[0] if steps else 0)

    def rows(self, steps: range) -> Iterator[_Row]:
        """(step, sample, weight, payload) of all that comes out, where a step is one row. To be called once."""
        self._steps = steps
        self._steps_by_seed = _ROWS_BY_SEED * steps.step
        outputs = self._rows()
        if self._seeds is None:
            return outputs
        parts = self._seeds.around(self._parts(outputs), steps[0] if steps else 0)
        return itertools.chain.from_iterable(parts)

    def _rows(self) -> Iterator[_Row]:
        num_given = 0
        for tie, payload in self._outputs():
            num_given += 1
            yield (*tie, payload)
        self._read_samples.end(num_given, sum(map(len, self._failed.values())))

    def _parts(self, rows: Iterator[_Row]) -> Iterator[list[_Row]]:
        """Several rows at a time, as it takes some microseconds to change generators."""
        assert self._seeds is not None
        begin, apart = self._steps[0] if self._steps else 0, self._steps_by_seed // _ROWS_BY_SEED
        while part := list(itertools.islice(rows, _ROWS_BY_SEED)):
            self._seeds.pause()
            if self._read_samples.seeks_pattern:
                self._read_samples.add_kept([(step - begin) // apart for step, _, _, _ in part])
            yield part
        self._read_samples.end_kept()

    def _made(self, steps: Sequence[int]) -> Iterator[Any]:
        """A batch is made as soon as its last row is there, or else once a later one's first row is."""
        todo = iter(steps)
        step = next(todo, None)
        positions = self._num_positions(step)
        rows: list[tuple[_Tie, Any]] = []
        for tie, payload in self._outputs():
            while step is not None and step != tie.step:
                yield self._finished(step, rows, positions)
                rows, step = [], next(todo, None)
                positions = self._num_positions(step)
            rows.append((tie, payload))
            if len(rows) == positions:
                yield self._finished(tie.step, rows, positions)
                rows, step = [], next(todo, None)
                positions = self._num_positions(step)
        while step is not None:
            yield self._finished(step, rows, self._num_positions(step))
            rows, step = [], next(todo, None)

    def _num_positions(self, step: int | None) -> int:
        first, end = (0, 0) if step is None else self.opening.rows(step, self._rank)
        return end - first

    def _finished(self, step: int, rows: list[tuple[_Tie, Any]], positions: int) -> Any:
        batch = self._batch(step, rows)
        if self._seeds is not None and not 0 < len(rows) == positions:
            self._seeds.begin_collate(step)
        return batch if self._finish is None else self._finish(batch)

    def _outputs(self) -> Iterator[tuple[_Tie, Any]]:
        """Pipeline outputs with their ties; if errors are skipped, a stage that raises is started again."""
        samples = self._tied_samples()
        while True:
            chain: TiedChain[_Tie] = TiedChain(self._source.stages, samples, shuffled=self.plan is not None)
            try:
                yield from chain
                if self._reader_error is not None:
                    raise self._reader_error
                return
            except PipelineError:
                raise
            except Exception as error:
                if self._reader_error is not None:
                    raise
                where = f"sample {chain.tie.sample} ({chain.key!r})" if chain.num_pulled else "before the first sample"
                if not self._source.skips_errors:
                    if hasattr(error, "add_note"):  # Python 3.11
                        error.add_note(f"in the pipeline, at {where}")
                    raise
                self._skip(error, where)
                if chain.num_pulled:
                    self._fail(chain.tie.step, chain.tie.sample)

    def _tied_samples(self) -> Iterator[tuple[_Tie, dict[str, Any]]]:
        """Samples with their ties. An error here is the reader's, not a stage's, so it always ends the pass."""
        try:
            yield from self._read()
        except Exception as error:
            self._reader_error = error
            raise

    def _read(self) -> Iterator[tuple[_Tie, dict[str, Any]]]:
        pairs: list[Iterator[tuple[int, int]]] = []
        reader = self._source.reader
        unreadable = self._note_unreadable if self._source.skips_errors else None
        next_seed = 0
        for sample in reader.samples(self._chunks(pairs), unreadable):
            index = sample["__index__"]
            while True:
                step, expected = next(pairs[0], (-1, -1))
                if step < 0:
                    pairs.pop(0)
                elif expected == index:
                    break
                else:
                    self._fail(step, expected)
            if step >= next_seed:
                next_seed = step + self._steps_by_seed
                if self._seeds is not None:
                    self._seeds.begin(step)
            yield _Tie(step, index, sample["__weight__"]), sample
        for step, expected in itertools.chain.from_iterable(pairs):
            self._fail(step, expected)

    def _chunks(
        self, pairs: list[Iterator[tuple[int, int]]]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Indices and weights of several steps at a time; `pairs` gets (step, index) of each sample beside them."""
        if isinstance(self._steps, range) and not self._fills:
            yield from self._row_chunks(self._steps, pairs)
            return
        per_chunk = max(1, _CHUNK_SAMPLES // self.opening.batch_size)
        for at in range(0, len(self._steps), per_chunk):
            steps = self._steps[at : at + per_chunk]
            parts = [self._positions.samples(*self.opening.rows(step, self._rank)) for step in steps]
            indices = np.concatenate([indices for indices, _ in parts])
            owners = np.repeat(np.array(steps), [len(indices) for indices, _ in parts])
            if self._source.stages:
                self._planned.update(zip(steps, (samples for samples, _ in parts), strict=True))
            pairs.append(zip(owners.tolist(), indices.tolist(), strict=True))
            yield indices, np.concatenate([weights for _, weights in parts])

    def _row_chunks(
        self, steps: range, pairs: list[Iterator[tuple[int, int]]]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """As `_chunks`, where a step is one row on each rank: a slice of the positions."""
        opening = self.opening
        for at in range(0, len(steps), _CHUNK_SAMPLES):
            part = steps[at : at + _CHUNK_SAMPLES]
            first, last = (opening.rows(step, self._rank)[0] for step in (part[0], part[-1]))
            taken = slice(None, None, steps.step * opening.world_size)
            indices, weights = self._positions.samples(first, min(last + 1, opening.end))
            indices = np.ascontiguousarray(indices[taken])
            self._read_samples.num_read += len(indices)
            self._read_samples.add_read(indices)
            pairs.append(zip(part, indices.tolist(), strict=False))  # the last step may have none on this rank
            yield indices, weights[taken]

    def _note_unreadable(self, index: int, error: ShardError) -> None:
        self._skip(error, f"sample {index}")

    def _fail(self, step: int, sample: int) -> None:
        self._failed.setdefault(step, []).append(sample)

    def _skip(self, error: Exception, where: str) -> None:
        self._errors += 1
        if self._errors > self._source.max_errors:
            raise PipelineError(
                f"over max_errors={self._source.max_errors} samples were skipped in this pass; the last one: {error}"
            ) from error
        if self._errors <= 10:
            _log.warning("skipped %s: %s: %s", where, type(error).__name__, error)

    def _batch(self, step: int, rows: list[tuple[_Tie, Any]]) -> BatchRows:
        size = max(1, len(rows)) if self._compact else self.opening.batch_size
        first, end = self.opening.rows(step, self._rank)
        payloads = [payload for _, payload in rows]
        indices = np.full(size, -1, np.int64)
        weights = np.zeros(size, np.float32)
        indices[: len(rows)] = [tie.sample for tie, _ in rows]
        weights[: len(rows)] = [tie.weight for tie, _ in rows]
        if payloads and not self._spare:
            self._spare = [row_copy(payloads[0], warn=False)]
        if len(payloads) < size:
            real = payloads or self._spare or [self._spare_row()]
            payloads += map(row_copy, itertools.islice(itertools.cycle(tuple(real)), size - len(payloads)))
        failed = self._failed.pop(step, ())
        counts = RowCounts(len(rows), size - len(rows), end - first - len(rows) - len(failed), len(failed))
        planned = self._planned.pop(step, None)
        self._read_samples.add_batch(counts, planned, indices[: len(rows)])
        dropped = None
        if planned is not None and counts.dropped and self._source.names_drops:
            dropped = np.setdiff1d(planned, [*indices[: len(rows)].tolist(), *failed])
        return BatchRows(payloads, indices, weights, counts, step, dropped, failed)

    def _spare_row(self) -> Any:
        """A row for a worker that has none of its own yet: the first output of the epoch's positions."""
        samples = self._source.reader.samples(
            (
                self._positions.samples(at, min(at + _CHUNK_SAMPLES, self._positions.count))
                for at in range(0, self._positions.count, _CHUNK_SAMPLES)
            ),
            self._note_unreadable if self._source.skips_errors else None,
        )
        with self._seeds.aside() if self._seeds is not None else nullcontext():
            self._spare = [spare_row(self._source.stages, samples, skip_errors=self._source.skips_errors)]
        return self._spare[0]
