"""Runs that are recovered from a copy of a living store's folder, as after kill -9: the same to the bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from infobatch_server.runs.registry import Registry
from infobatch_server.runs.run import Run
from infobatch_server.state.limits import Limits
from infobatch_server.state.run_state import ResumePoint
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_server.store.durable import DurableStore
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.plan.order_params import OrderChoice
from infobatch_stream.scores.table import ScoreTable
from tests.server.bare_runs import NEW, attach, end
from tests.server.calls import make_spec
from tests.server.column_policy import install_columns
from tests.server.conftest import Clock

N = 1000


def open_store(folder: Path, segment_samples: int = 128) -> DurableStore:
    folder.mkdir(exist_ok=True)
    return DurableStore(folder, segment_samples=segment_samples, save_bytes=2**14)


def arrays(table: ScoreTable) -> dict[str, bytes]:
    return {
        **{name: values.tobytes() for name, values in table.arrays().items()},
        "dropped": table.dropped[:].tobytes(),
    }


def check_recovered(folder: Path, copy: Path, live: list[Run], segment_samples: int = 128) -> None:
    """A recovery of the folder as it is now gives these runs."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    store = open_store(copy, segment_samples)
    again = Registry(store, Limits(), Clock())
    again.load()
    assert [run.spec.run for run in again.runs()] == sorted(run.spec.run for run in live)
    for run in live:
        found = again.by_id(run.run_id)
        assert found.core.state == run.core.state
        assert found.spec.differences(run.spec) == []
        assert arrays(found.core.feed.table) == arrays(run.core.feed.table)
        for name in ("applied_position", "applied_entry", "stored_scores", "rejected_scores"):
            assert getattr(found.core.feed, name) == getattr(run.core.feed, name), name
        for epoch in range(run.spec.epochs):
            assert set(found.core.barrier.marks(epoch)) == set(run.core.barrier.marks(epoch))
        for plan_id in run.core.state.plan_ids.values():
            assert same_plan(found.plans.find(plan_id), run.plans.find(plan_id))
        assert found.core.feed._windows.keys() == run.core.feed._windows.keys()
        for client, window in run.core.feed._windows.items():  # what a repeated push finds
            assert vars_of(found.core.feed._windows[client]) == vars_of(window)
    store.close()


def vars_of(window: object) -> tuple[object, object]:
    return window._newest, window._stored  # type: ignore[attr-defined]


def same_plan(one: EpochPlan, other: EpochPlan) -> bool:
    planes = [None if plan.class_plane is None else plan.class_plane.tobytes() for plan in (one, other)]
    return one.plan_id == other.plan_id and one.keep_bits.tobytes() == other.keep_bits.tobytes() and len({*planes}) == 1


class Trainer:
    """Does random things to a run, as jobs do."""

    def __init__(self, run: Run, rng: np.random.Generator) -> None:
        self.run, self.rng = run, rng
        self.generation = attach(run, NEW, nonce=1)
        self.sequences: dict[bytes, int] = {}
        self.epoch = -1
        self.plan_id = ""
        self.open()

    def open(self) -> None:
        if self.epoch + 1 == self.run.spec.epochs:
            return
        if self.epoch >= 0:
            end(self.run, self.generation, self.epoch, self.plan_id)
        self.epoch += 1
        plan = self.run.plans.get(self.generation, self.epoch)
        assert isinstance(plan, EpochPlan)
        self.plan_id = plan.plan_id

    def push(self) -> None:
        client = self.generation.to_bytes(8, "big") + int(self.rng.integers(3)).to_bytes(8, "big")
        self.sequences[client] = self.sequences.get(client, 0) + 1
        count = int(self.rng.integers(0, 60))
        first = int(self.rng.integers(N - 60)) if self.rng.random() < 0.5 else 0
        indices = self.rng.integers(first, first + 60 if first else N, count)
        scores = self.rng.random(count).astype(np.float32)
        scores[self.rng.random(count) < 0.1] = np.nan
        dropped = self.rng.integers(0, N, 5) if self.rng.random() < 0.2 else None
        epoch = max(0, self.epoch - int(self.rng.integers(2)))
        names = {column.name: column.dtype for column in self.run.spec.policy.pushed_columns}
        columns = {name: self.rng.random(count).astype(dtype) for name, dtype in names.items()}
        sequence = self.sequences[client]
        self.run.push(ScoreBatch(self.generation, client, sequence, epoch, indices, scores, columns, dropped))

    def reattach(self) -> None:
        inside = self.rng.random() < 0.5 and self.epoch in self.run.core.state.plan_ids
        epoch = self.epoch if inside else int(self.rng.integers(0, self.epoch + 1))
        point = ResumePoint(epoch=epoch, plan_id=self.plan_id if inside else "")
        self.generation = attach(self.run, point, nonce=self.generation + 1, takeover=True)
        self.epoch = epoch if inside else epoch - 1
        if not inside:
            self.plan_id = self.run.core.state.plan_ids.get(self.epoch, "")
            self.epoch += 1
            plan = self.run.plans.get(self.generation, self.epoch)
            assert isinstance(plan, EpochPlan)
            self.plan_id = plan.plan_id

    def forget(self) -> None:
        self.run.forget_drops()


@pytest.fixture
def with_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_columns(tmp_path / "installed")
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))


@pytest.mark.parametrize("policy", ["infobatch", "durable_columns"])
@pytest.mark.usefixtures("with_columns")
def test_what_is_recovered_is_what_was_answered(tmp_path: Path, policy: str) -> None:
    store = open_store(tmp_path / "live")
    registry = Registry(store, Limits(), Clock())
    rng = np.random.default_rng(5)
    trainers = [
        Trainer(registry.create(make_spec(name, policy=policy, epochs=40), OrderChoice())[0], rng)
        for name in ("one", "two")
    ]
    for step in range(300):
        trainer = trainers[int(rng.integers(2))]
        run_id, segment = trainer.run.run_id, int(rng.integers(8))
        actions: list[tuple[Callable[[], None], float]] = [
            *((trainer.push, 0.8), (trainer.open, 0.05), (trainer.reattach, 0.03), (trainer.forget, 0.02)),
            (partial(store.keeper.save_segment, run_id, segment), 0.06),
            (partial(store.keeper.free_journal, run_id), 0.03),
            (store.keeper.save_scores, 0.01),
        ]
        actions[rng.choice(len(actions), p=[share for _, share in actions])][0]()
        if step % 10 == 9:
            check_recovered(tmp_path / "live", tmp_path / "copy", [trainer.run for trainer in trainers])
    store.close()


def test_counters_survive_the_entries_that_nobody_needs_any_more(tmp_path: Path) -> None:
    store = open_store(tmp_path / "live")
    registry = Registry(store, Limits(), Clock())
    trainer = Trainer(registry.create(make_spec("one"), OrderChoice())[0], np.random.default_rng(1))
    run_id = trainer.run.run_id
    trainer.push()
    store.keeper.save_scores()
    trainer.forget()
    trainer.run.push(ScoreBatch(trainer.generation, b"e" * 16, 1, 0, np.empty(0, np.int64), np.empty(0, np.float32)))
    store.keeper.free_journal(run_id)
    check_recovered(tmp_path / "live", tmp_path / "copy", [trainer.run])
    store.keeper.save_scores()  # the push touches no sample, and is freed nevertheless
    left = store._database.alone(lambda connection: list(connection.execute("SELECT 1 FROM journal WHERE kind = 0")))
    assert not left
    check_recovered(tmp_path / "live", tmp_path / "copy", [trainer.run])
    store.close()
