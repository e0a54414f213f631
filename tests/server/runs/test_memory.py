"""What a run weighs: the account against the arrays that a run really holds, and against the process's memory."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infobatch_server.runs.memory import MemoryBudget, run_bytes
from infobatch_server.runs.registry import Registry
from infobatch_server.runs.run import Run
from infobatch_server.state.limits import Limits
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_server.store.memory import MemoryStore
from infobatch_stream.errors import ConfigError, RunConflictError, ServerBusyError
from infobatch_stream.plan.order_params import OrderChoice
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.wire.specs import seal
from tests.policy_distribution import unpack_policy
from tests.server.bare_runs import attach, end, plan, push
from tests.server.calls import make_spec
from tests.server.runs.test_policies_of_runs import WITH_COLUMNS

NUM_SAMPLES = 200_000
ROOMY = Limits(memory_bytes=2**40)


def held_bytes(root: object) -> int:
    """Bytes of all arrays that can be reached from an object, each buffer once."""
    seen: dict[int, object] = {}
    buffers: dict[int, int] = {}
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, type):
            continue
        seen[id(value)] = value
        if isinstance(value, np.ndarray):
            while isinstance(value.base, np.ndarray):
                value = value.base
            buffers[id(value)] = value.nbytes
            seen[id(value)] = value
        elif isinstance(value, (bytes, bytearray)):
            buffers[id(value)] = len(value)
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += value
        elif type(value).__module__.startswith("infobatch"):
            waiting += vars(value).values() if hasattr(value, "__dict__") else ()
            slots = getattr(type(value), "__slots__", ())
            waiting += [getattr(value, name) for name in slots if hasattr(value, name)]
    return sum(buffers.values())


def trained_run(registry: Registry, spec: RunSpec) -> Run:
    """A run that holds all that it can: every plan that is kept, one that prunes nothing, dropped samples."""
    run, _ = registry.create(spec, OrderChoice())
    generation = attach(run)
    rng = np.random.default_rng(0)
    columns = {column.name: rng.random(spec.num_samples).astype(column.dtype) for column in spec.policy.pushed_columns}
    for epoch in range(12):
        got = plan(run, generation, epoch)
        scores = rng.random(spec.num_samples).astype(np.float32)
        run.push(ScoreBatch(generation, b"c" * 16, epoch + 1, epoch, np.arange(spec.num_samples), scores, columns))
        assert end(run, generation, epoch, got.plan_id) == ()
    run.push(ScoreBatch(generation, b"d" * 16, 1, 11, np.array([3]), scores[:1], _first(columns), np.array([4, 9])))
    run.plans.mark_unpruned(generation, 12)
    assert run.plans.get(generation, 12).unpruned
    return run


def _first(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: values[:1] for name, values in columns.items()}


SHAPES: dict[str, dict[str, Any]] = {
    "scores": {},
    "mask": {"subset": np.arange(NUM_SAMPLES) % 3 > 0},
    "many shards": {"num_shards": 30_000},
    "groups": {"num_shards": 10_000, "groups": 5, "per_group": True},
    "columns": {"policy": "with_columns"},
    "levels": {"policy": "levels", "levels": [[0.5, 0.5], [0.8, 0.2]]},
}


@pytest.fixture
def policy_with_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a policy with two pushed columns, one of them with two arrays, and one of the score."""
    unpack_policy(tmp_path / "installed", "dist_with_columns", WITH_COLUMNS, {"with_columns": "Mine"})
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_array_of_a_run_is_accounted_for(shape: str, policy_with_columns: None) -> None:
    spec = make_spec(num_samples=NUM_SAMPLES, epochs=20, **SHAPES[shape])
    store = MemoryStore()
    run = trained_run(Registry(store, ROOMY), spec)
    held = held_bytes([run, store])
    parts = run_bytes(spec, ROOMY.keep_plans)
    accounted = sum(size for name, size in parts.items() if name not in ("a draw", "an upload", "epochs"))
    assert accounted / 3 < held <= accounted + 20_000


@pytest.mark.parametrize("part", ["scores", "columns", "mask", "shards", "groups", "plans", "dropped samples"])
def test_an_account_that_forgets_a_part_is_noticed(part: str, policy_with_columns: None) -> None:
    """The walk of the test before reaches what each part is for."""
    subset = np.arange(9999) % 2 > 0
    spec = make_spec(num_samples=9999, num_shards=999, groups=3, subset=subset, epochs=20, policy="with_columns")
    store = MemoryStore()
    run = trained_run(Registry(store, ROOMY), spec)
    held = held_bytes([run, store])
    owners = {
        "scores": run.core.feed.table.score,
        "columns": run.core.feed.table.extra["margin.last"],
        "mask": spec.subset,
        "shards": spec.shard_sizes,
        "groups": spec.groups.of_shard if spec.groups else None,
        "plans": next(iter(store._plans[run.run_id].values())).class_plane,
        "dropped samples": run.core.feed.table.dropped._bits,
    }
    assert held_bytes(owners[part]) > 0
    assert held_bytes([run, store, owners[part]]) == held


def test_runs_are_refused_before_they_do_not_fit_and_fit_again_after_a_deletion() -> None:
    needed = sum(run_bytes(make_spec(), Limits().keep_plans).values())
    registry = Registry(MemoryStore(), Limits(memory_bytes=3 * needed + 5))
    runs = [registry.create(make_spec(f"run{number}"), OrderChoice())[0] for number in range(3)]
    with pytest.raises(RunConflictError, match=rf"{3 * needed:,} of {3 * needed + 5:,} are in use.*--memory-bytes"):
        registry.create(make_spec("fourth"), OrderChoice())
    assert not registry.create(make_spec("run0"), OrderChoice())[1]
    registry.delete(runs[1], force=False)
    assert registry.create(make_spec("fourth"), OrderChoice())[1]


def test_pushes_that_wait_for_a_draw_are_charged_to_the_whole_server() -> None:
    needed = sum(run_bytes(make_spec(), Limits().keep_plans).values())
    registry = Registry(MemoryStore(), Limits(memory_bytes=needed + 12 * 1500))
    run, _ = registry.create(make_spec(), OrderChoice())
    generation = attach(run)
    plan(run, generation, 0)
    with run.core.lock:
        run.core.feed.pause()
    push(run, generation, 0, np.ones(1000), sequence=1)
    with pytest.raises(ServerBusyError, match="send this push again later"):
        push(run, generation, 0, np.ones(1000), sequence=2)
    assert registry.memory.used == needed + 12_000
    with run.core.lock:
        run.core.feed.resume()
    assert registry.memory.used == needed
    push(run, generation, 0, np.ones(1000), sequence=2)
    assert run.core.feed.stored_scores == 2000


def test_a_plan_in_transfer_is_held_only_if_it_fits() -> None:
    memory = MemoryBudget(100)
    with memory.holding(80, "a plan for run 'x'"):
        with pytest.raises(ServerBusyError, match="a plan for run 'y' takes 30 bytes, but 80 of 100 are in use"):
            memory.holding(30, "a plan for run 'y'").__enter__()
        assert memory.used == 80
    assert memory.used == 0


def test_imports_of_old_epochs_do_not_pile_up() -> None:
    store = MemoryStore()
    registry = Registry(store, ROOMY)
    run, _ = registry.create(make_spec(epochs=20), OrderChoice())
    source, _ = registry.create(make_spec("source", epochs=20), OrderChoice())
    generation = attach(source)
    plans = []
    for epoch in range(10):
        plans.append(got := plan(source, generation, epoch))
        push(source, generation, epoch, np.random.default_rng(epoch).random(1000))
        assert end(source, generation, epoch, got.plan_id) == ()
    for got in reversed(plans[2:]):
        run.import_plan(got)
    for generation in range(1, 4):
        with pytest.raises(ConfigError, match="keeps 8 plans, of epochs from 2 on"):
            run.import_plan(seal(dataclasses.replace(plans[0], generation=generation)))
    assert len(store._plans[run.run_id]) == 8


PROBE = """
import json, os, sys
import numpy as np
from infobatch_server.runs.memory import run_bytes
from infobatch_server.runs.registry import Registry
from infobatch_server.store.memory import MemoryStore
from tests.server.calls import make_spec
from tests.server.runs.test_memory import ROOMY, trained_run

def resident(name):
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

trained_run(Registry(MemoryStore(), ROOMY), make_spec(epochs=20))
shape = json.loads(sys.argv[1])
before = resident("VmRSS")
spec = make_spec(epochs=20, **shape)
run = trained_run(Registry(MemoryStore(), ROOMY), spec)
print(json.dumps([resident("VmRSS") - before, sum(run_bytes(spec, ROOMY.keep_plans).values())]))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "shape",
    [
        {"num_samples": 10_000_000, "num_shards": 1000},
        {"num_samples": 10_000_000, "num_shards": 1_000_000},
        {"num_samples": 10_000_000, "num_shards": 1_000_000, "groups": 7},
    ],
    ids=["samples", "shards", "groups"],
)
def test_the_memory_of_a_process_grows_by_what_is_accounted(shape: dict[str, int]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(shape)], check=True, capture_output=True, text=True, timeout=280
    )
    grown, accounted = json.loads(done.stdout)
    print(f"{shape}: grown {grown:,}, accounted {accounted:,}")
    assert grown <= accounted + 32 * 2**20
    assert accounted <= 2.2 * grown
