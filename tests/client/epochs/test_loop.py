"""The one loop: columns reach the source with their rows, and a source that trains nothing is never asked to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from infobatch_client.epochs.holder import DATASET, LOADER, Holder
from infobatch_client.epochs.loop import EpochLoop
from infobatch_client.epochs.loss_calls import LossCalls
from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.epochs.returned import ReturnedBatches
from infobatch_client.epochs.source import EpochSource, NextEpoch, TrainingSource
from infobatch_client.epochs.validation import ValidationEpochs
from infobatch_client.ranks.place import RankChoice
from infobatch_client.ranks.ranks import Ranks
from infobatch_client.tie.rows import TiedBatch
from infobatch_client.tie.ticket import Ticket
from infobatch_client.tie.weighting import HostScores
from infobatch_stream.errors import ConfigError, LossError, WorkerError
from infobatch_stream.manifest import Manifest
from infobatch_stream.plan.epoch_plan import unpruned_plan
from infobatch_stream.plan.order_params import OrderParams
from infobatch_stream.row_counts import RowCounts
from infobatch_stream.scores.columns import ColumnSpec

SAMPLES, B = 8, 4
COLUMNS = (ColumnSpec(name="margin"), ColumnSpec(name="hits", dtype="uint8"))


class Local(TrainingSource):
    """Two unpruned epochs of 8 samples, whose scores stay in this process."""

    num_epochs = 2
    num_samples = SAMPLES
    may_begin_anywhere = False
    has_begun = False

    def __init__(self, *columns: ColumnSpec) -> None:
        self.columns = columns
        self.pushed: list[tuple[Ticket, HostScores]] = []
        self.ends: list[tuple[int, int]] = []
        self.closed = False

    def begin_at(self, epoch: int) -> None:
        self.next_epoch = epoch

    def open(self, max_steps: int | None = None) -> NextEpoch:
        self.has_begun = True
        order = OrderParams(lanes=1, stripe=1, window_shards=1, run_samples=1)
        sizes = np.array([SAMPLES])
        plan = unpruned_plan(run_id=bytes(16), epoch=self.next_epoch, seed=0, shard_sizes=sizes, order=order)
        return NextEpoch(self.next_epoch, plan, "", 0)

    def push(self, ticket: Ticket, scores: HostScores) -> None:
        self.pushed.append((ticket, scores))

    def report_dropped(self, epoch: OpenEpoch, samples: npt.NDArray[np.int64]) -> None:
        raise AssertionError("no stage drops any")

    def end(self, epoch: OpenEpoch, *, wait: bool = True) -> None:
        self.ends.append((epoch.number, epoch.positions))

    def state(self, epoch: OpenEpoch | None) -> dict[str, Any]:
        return {"epoch": self.next_epoch}

    def load(self, state: Mapping[str, Any]) -> None:
        self.next_epoch = state["epoch"]

    def metrics(self) -> dict[str, float]:
        return {"scores_pushed": len(self.pushed)}

    def flush(self, timeout_s: float | None = None) -> bool:
        return True

    def close(self, timeout_s: float | None) -> None:
        self.closed = True


class Loop(LossCalls):
    """A loader without workers: batches of consecutive samples."""

    lost: tuple[int, ...] = ()  # the numbers of batches that don't come

    def __init__(self, source: EpochSource, holder: Holder = LOADER) -> None:
        self._epochs = EpochLoop(source, holder=holder, ranks=Ranks(RankChoice(), timeout_s=1.0), batch_size=B)
        self._returned = ReturnedBatches(self._epochs.sequence)

    @property
    def loop(self) -> EpochLoop:
        return self._epochs

    def batches(self) -> list[Ticket]:
        """One pass."""
        epoch = self._epochs.sequence.for_pass()
        parts = np.arange(SAMPLES).reshape(-1, B)
        rows = (TiedBatch(part, part, np.ones(B, np.float32), False, RowCounts(B), n) for n, part in enumerate(parts))
        came = (batch for batch in rows if batch.step not in self.lost)
        return [ticket for ticket, _ in self._returned.of_pass(epoch, came)]


def validation() -> ValidationEpochs:
    manifest = Manifest(names=("a",), counts=(SAMPLES,), shard_fingerprints=(bytes(32),))
    return ValidationEpochs(manifest, seed=0, shuffle=False, ranks=Ranks())


@pytest.mark.parametrize("lost", [(0,), (1,), (SAMPLES // B - 1,), tuple(range(SAMPLES // B))])
def test_a_pass_without_one_of_its_batches_is_an_error(lost: tuple[int, ...]) -> None:
    loop = Loop(validation())
    loop.lost = lost
    with pytest.raises(WorkerError, match=f"batch {lost[0]} of {SAMPLES // B} of this pass was lost"):
        loop.batches()
    loop.lost = ()
    assert len(loop.batches()) == SAMPLES // B


def test_columns_of_a_micro_batch_go_with_its_rows() -> None:
    source = Local(*COLUMNS)
    loop = Loop(source)
    first, second = loop.batches()
    margin, hits = torch.tensor([0.5, 1.5]), torch.tensor([3, 4])
    loop.update(torch.ones(2), batch=first, rows=slice(1, 3), columns={"margin": margin, "hits": hits})
    loop.push(torch.ones(B), batch=second, columns={"margin": torch.zeros(B), "hits": torch.ones(B, dtype=torch.bool)})
    margin.zero_()
    (part, scores), (whole, others) = source.pushed
    assert part.index.tolist() == [1, 2]
    assert scores.columns["margin"].tolist() == [0.5, 1.5]
    assert scores.columns["hits"].tolist() == [3, 4]
    assert scores.columns["hits"].dtype == torch.uint8
    assert whole.index.tolist() == [4, 5, 6, 7]
    assert others.columns["hits"].tolist() == [1] * B


@pytest.mark.parametrize("call", ["update", "push"])
def test_an_update_without_the_declared_columns_pushes_and_counts_nothing(call: str) -> None:
    source = Local(*COLUMNS)
    loop = Loop(source)
    first, _ = loop.batches()
    for columns, message in [
        (None, r"lacks 'margin', 'hits'; the run's policy declares 'margin' \(float32\), 'hits' \(uint8\)"),
        ({"margin": torch.ones(B)}, "lacks 'hits'"),
        ({"margin": torch.ones(B), "hits": torch.ones(3, dtype=torch.uint8)}, r"columns\['hits'\] has shape \(3,\)"),
    ]:
        with pytest.raises(LossError, match=message):
            getattr(loop, call)(torch.ones(B), batch=first, columns=columns)
    assert source.pushed == []
    assert loop.loop.open is not None
    assert not loop.loop.open.updated
    assert len(loop.loop.open.awaited) == 2


def test_a_policy_without_columns_refuses_them() -> None:
    loop = Loop(Local())
    first, _ = loop.batches()
    with pytest.raises(LossError, match=r"has 'margin'; the run's policy declares no columns"):
        loop.update(torch.ones(B), batch=first, columns={"margin": torch.ones(B)})


def test_an_epoch_ends_once_its_last_batch_is_updated() -> None:
    source = Local()
    loop = Loop(source)
    first, second = loop.batches()
    loop.update(torch.ones(B), batch=second)
    assert source.ends == []
    loop.update(torch.ones(2), batch=first, rows=slice(0, 2))
    assert source.ends == []
    loop.update(torch.ones(2), batch=first, rows=slice(2, 4))
    assert source.ends == [(0, SAMPLES)]
    assert loop.loop.progress == 1.0
    loop.loop.sequence.set_epoch(1)
    loop.loop.close()
    assert source.ends == [(0, SAMPLES), (1, 0)]
    assert source.closed


def test_metrics_show_no_count_that_is_not_counted_here() -> None:
    loop = Loop(Local())
    loop.batches()
    assert {name for name in loop.loop.metrics() if name.startswith("rows_")} == {
        "rows_real",
        "rows_filled",
        "rows_dropped",
        "rows_unreadable",
    }


@pytest.mark.parametrize(("holder", "name"), [(LOADER, "loader"), (DATASET, "dataset")])
def test_errors_name_the_object_that_the_user_holds(holder: Holder, name: str) -> None:
    loop = Loop(Local(), holder)
    with pytest.raises(LossError, match=rf"no epoch is open: .*{name}"):
        loop.skip()
    loop.loop.sequence.set_epoch(0)
    loop.update(torch.ones(B), batch=loop.batches()[0])
    with pytest.raises(ConfigError, match=rf"a second pass over epoch 0 after updates.*{name}\.set_epoch\(1\)"):
        loop.loop.sequence.for_pass()
    with pytest.raises(ConfigError, match=rf"into a new {name}"):
        loop.loop.sequence.set_epoch(0)
    with pytest.raises(ConfigError, match=f"make a new {name}"):
        loop.loop.load({"epoch": 0})
    with pytest.warns(UserWarning, match=rf"never updated.*{name}\.update\(.*{name}\.skip\(\)") as warned:
        loop.loop.sequence.set_epoch(1)
    assert warned[0].filename == __file__, "points at the user's line"
    loop.loop.close()
    with pytest.raises(ConfigError, match=f"this {name} is closed: it takes no scores"):
        loop.skip()
    with pytest.raises(ConfigError, match=f"this {name} is closed"):
        loop.batches()


def test_validation_has_passes_and_no_scores_or_state() -> None:
    loop = Loop(validation())
    assert len(loop.batches()) == len(loop.batches()) == 2
    with pytest.raises(ConfigError, match=r"a validation loader .* takes no scores"):
        loop.update(torch.ones(B))
    for call in (loop.loop.state, lambda: loop.loop.load({})):
        with pytest.raises(ConfigError, match=r"a validation loader .* has no state"):
            call()
    assert loop.loop.flush()
    assert not loop.loop.trains
    loop.loop.close()
