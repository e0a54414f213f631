"""Runs that are deleted leave nothing behind, whatever is going on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from infobatch_server.runs.registry import Registry
from infobatch_server.runs.run import Run
from infobatch_server.state.limits import Limits
from infobatch_server.store.durable import DurableStore
from infobatch_server.store.segments import Captured
from infobatch_stream.plan.order_params import OrderChoice
from tests.server.bare_runs import attach, plan, push
from tests.server.calls import make_spec
from tests.server.conftest import Clock


@pytest.fixture
def store(tmp_path: Path) -> DurableStore:
    return DurableStore(tmp_path, segment_samples=128)


def trained(store: DurableStore) -> tuple[Registry, Run]:
    registry = Registry(store, Limits(), Clock())
    run = registry.create(make_spec(), OrderChoice())[0]
    generation = attach(run)
    plan(run, generation, 0)
    push(run, generation, 0, np.random.default_rng(0).random(1000))
    return registry, run


def what_is_left(folder: Path) -> tuple[list[str], list[object]]:
    """The runs' folders, and what a recovery finds."""
    again = DurableStore(folder, segment_samples=128)
    found: list[object] = list(again.load())
    again.close()
    return sorted(path.name for path in (folder / "runs").iterdir()), found


def test_a_deleted_run_leaves_nothing(store: DurableStore, tmp_path: Path) -> None:
    registry, run = trained(store)
    store.keeper.save_segment(run.run_id, 3)
    registry.delete(run, force=True)
    assert store.keeper.journal_bytes == 0
    store.close()
    assert what_is_left(tmp_path) == ([], [])


def test_a_run_is_deleted_while_its_scores_are_saved(store: DurableStore, tmp_path: Path) -> None:
    registry, run = trained(store)
    is_deleting = threading.Event()

    def capture(first: int, stop: int) -> Captured:
        assert is_deleting.wait(10)
        return run.core.feed.capture(first, stop)

    store.follow(run.run_id, capture)

    def delete() -> None:
        with run.core.lock:
            is_deleting.set()
            registry.delete(run, force=True)

    with ThreadPoolExecutor(2) as pool:
        saving = pool.submit(store.keeper.save_segment, run.run_id, 0)
        pool.submit(delete).result(10)
        saving.result(10)
    store.close()
    assert what_is_left(tmp_path) == ([], [])


def test_a_run_of_the_same_name_begins_anew(store: DurableStore, tmp_path: Path) -> None:
    registry, run = trained(store)
    registry.delete(run, force=True)
    again = registry.create(make_spec(), OrderChoice())[0]
    store.close()
    (name,), (found,) = what_is_left(tmp_path)
    assert name == again.run_id.hex()
    assert np.isnan(found.table.score).all()  # type: ignore[attr-defined]
