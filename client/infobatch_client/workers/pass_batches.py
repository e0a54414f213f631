"""The rows of one worker's batches of one pass: read, passed through the pipeline, filled up."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from infobatch_client.plans.files import map_plan
from infobatch_client.tie.chain import TiedChain
from infobatch_client.tie.rows import BatchRows
from infobatch_client.tie.spare_row import spare_row
from infobatch_client.workers.pass_control import Pass
from infobatch_client.workers.sample_source import SampleSource
from infobatch_stream.errors import PipelineError, ShardError
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.plan.order import PlanOrder
from infobatch_stream.row_counts import RowCounts

__all__ = ["PassBatches"]

_CHUNK_SAMPLES = 512
_log = logging.getLogger(__name__)


class _Tie(NamedTuple):
    step: int
    sample: int
    weight: float


class _Positions:
    """Position → sample index and weight of a pass: by a plan, or every sample in index order."""

    def __init__(self, plan: EpochPlan | None, offsets: npt.NDArray[np.int64]) -> None:
        self._plan = plan
        self.count = int(offsets[-1])
        if plan is not None:
            self._order = PlanOrder(plan, offsets)
            self.count = plan.kept

    def samples(self, first: int, end: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        if self._plan is None:
            return np.arange(first, end, dtype=np.int64), np.ones(end - first, np.float32)
        indices = self._order.samples(first, end)
        return indices, self._plan.weights(indices)


class PassBatches:
    """The rows of one worker's batches of one pass.

    Args:
        source: samples, and their pipeline.
        pass_: the pass.
        plan: the samples to keep; None: the plan in the pass's file, or without a file every sample in index order.
        noted: int64 (3,), gets the samples that were read, at 1, and of these the dropped ones, at 2, after each batch.
    """

    def __init__(
        self,
        source: SampleSource,
        pass_: Pass,
        plan: EpochPlan | None = None,
        *,
        noted: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self._source = source
        self.plan = map_plan(pass_.plan_path) if plan is None and pass_.plan_path else plan
        self._positions = _Positions(self.plan, source.offsets)
        self._rank = pass_.rank
        self.opening = pass_.opening(self._positions.count)
        self._steps: Sequence[int] = ()
        self._errors = 0
        self._failed: dict[int, list[int]] = {}  # samples by step
        self._planned: dict[int, npt.NDArray[np.int64]] = {}  # by step, if drops are to be named
        self._num_read = self._num_dropped = 0
        self._noted = np.zeros(3, np.int64) if noted is None else noted
        self._last_row: list[Any] = []
        self._reader_error: Exception | None = None

    def batches(self, steps: Sequence[int]) -> Iterator[BatchRows]:
        """The batches of these steps, ascending. To be called once."""
        self._steps = steps
        todo = iter(steps)
        step = next(todo, None)
        rows: list[tuple[_Tie, Any]] = []
        for tie, payload in self._outputs():
            while step is not None and step != tie.step:
                yield self._batch(step, rows)
                rows = []
                step = next(todo, None)
            rows.append((tie, payload))
        while step is not None:
            yield self._batch(step, rows)
            rows = []
            step = next(todo, None)

    def _outputs(self) -> Iterator[tuple[_Tie, Any]]:
        """Pipeline outputs with their ties; if errors are skipped, a stage that raises is started again."""
        samples = self._tied_samples()
        while True:
            chain: TiedChain[_Tie] = TiedChain(self._source.stages, samples)
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
            yield _Tie(step, index, sample["__weight__"]), sample
        for step, expected in itertools.chain.from_iterable(pairs):
            self._fail(step, expected)

    def _chunks(
        self, pairs: list[Iterator[tuple[int, int]]]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Indices and weights of several steps at a time; `pairs` gets (step, index) of each sample beside them."""
        per_chunk = max(1, _CHUNK_SAMPLES // self.opening.batch_size)
        for at in range(0, len(self._steps), per_chunk):
            steps = self._steps[at : at + per_chunk]
            parts = [self._positions.samples(*self.opening.rows(step, self._rank)) for step in steps]
            indices = np.concatenate([indices for indices, _ in parts])
            owners = np.repeat(np.array(steps), [len(indices) for indices, _ in parts])
            if self._source.names_drops:
                self._planned.update(zip(steps, (samples for samples, _ in parts), strict=True))
            pairs.append(zip(owners.tolist(), indices.tolist(), strict=True))
            yield indices, np.concatenate([weights for _, weights in parts])

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
        size = self.opening.batch_size
        first, end = self.opening.rows(step, self._rank)
        payloads = [payload for _, payload in rows]
        indices = np.full(size, -1, np.int64)
        weights = np.zeros(size, np.float32)
        indices[: len(rows)] = [tie.sample for tie, _ in rows]
        weights[: len(rows)] = [tie.weight for tie, _ in rows]
        if payloads:
            self._last_row = payloads[-1:]
        if len(payloads) < size:
            real = payloads or self._last_row or [self._spare_row()]
            payloads += itertools.islice(itertools.cycle(real), size - len(payloads))
        failed = self._failed.pop(step, ())
        counts = RowCounts(len(rows), size - len(rows), end - first - len(rows) - len(failed), len(failed))
        self._num_read += end - first
        self._noted[1] = self._num_read
        if counts.dropped:
            self._num_dropped += counts.dropped
            self._noted[2] = self._num_dropped
        planned = self._planned.pop(step, None)
        dropped = None
        if planned is not None and counts.dropped:
            dropped = np.setdiff1d(planned, [*indices[: len(rows)].tolist(), *failed])
        return BatchRows(payloads, indices, weights, counts, dropped, failed)

    def _spare_row(self) -> Any:
        """A row for a worker that has none of its own yet: the first output of the epoch's positions."""
        samples = self._source.reader.samples(
            (
                self._positions.samples(at, min(at + _CHUNK_SAMPLES, self._positions.count))
                for at in range(0, self._positions.count, _CHUNK_SAMPLES)
            ),
            self._note_unreadable if self._source.skips_errors else None,
        )
        self._last_row = [spare_row(self._source.stages, samples, skip_errors=self._source.skips_errors)]
        return self._last_row[0]
