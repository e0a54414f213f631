"""The runs of a server: creating them side by side, and what is said of one that isn't there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from infobatch_server.runs import registry as registry_module
from infobatch_server.runs.registry import Registry
from infobatch_server.state.limits import Limits
from infobatch_server.store.memory import MemoryStore
from infobatch_stream.errors import RunConflictError, RunNotFoundError
from infobatch_stream.plan.order_params import OrderChoice
from tests.server.calls import make_spec

LARGE = 2000


class SlowTables:
    """Score tables of LARGE samples are finished when a test says so."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.error: Exception | None = None

    def __call__(self, num_samples: int, columns: Any) -> Any:
        if num_samples == LARGE:
            self.begun.set()
            assert self.may_end.wait(10)
            if self.error is not None:
                raise self.error
        return self._make(num_samples, columns)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> SlowTables:
    tables = SlowTables(registry_module.ScoreTable)
    monkeypatch.setattr(registry_module, "ScoreTable", tables)
    return tables


def test_others_create_and_delete_while_a_large_run_is_made(tables: SlowTables) -> None:
    registry = Registry(MemoryStore(), Limits(memory_bytes=30_000))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(registry.create, make_spec("large", num_samples=LARGE), OrderChoice())
        assert tables.begun.wait(10)
        small, created = registry.create(make_spec("small"), OrderChoice())
        assert created
        with pytest.raises(RunConflictError, match="take 8,500 bytes; 25,500 of 30,000 are in use"):
            registry.create(make_spec("third"), OrderChoice())
        registry.delete(small, force=False)
        second = pool.submit(registry.create, make_spec("large", num_samples=LARGE), OrderChoice())
        assert registry.runs() == []
        tables.may_end.set()
        run, created = first.result(10)
        assert created
        assert second.result(10) == (run, False)


def test_a_run_that_could_not_be_made_leaves_its_name_and_its_room(tables: SlowTables) -> None:
    registry = Registry(MemoryStore(), Limits(memory_bytes=20_000))
    tables.error = MemoryError()
    tables.may_end.set()
    with pytest.raises(MemoryError):
        registry.create(make_spec("large", num_samples=LARGE), OrderChoice())
    tables.error = None
    assert registry.create(make_spec("large", num_samples=LARGE), OrderChoice())[1]


class DurableStore(MemoryStore):
    """Says that it outlives the process."""

    durable = True


def test_only_a_server_that_forgets_says_so_and_what_to_do() -> None:
    remedy = "it keeps runs in memory, and has forgotten those of before its last start"
    for durable, store in ((False, MemoryStore()), (True, DurableStore())):
        registry = Registry(store, Limits())
        with pytest.raises(RunNotFoundError) as by_id:
            registry.by_id(b"x" * 16)
        with pytest.raises(RunNotFoundError) as by_name:
            registry.by_name("nobody")
        assert (f"; {remedy}: start the training again under the same name" in str(by_id.value)) is not durable
        assert (f"; {remedy}" in str(by_name.value)) is not durable
