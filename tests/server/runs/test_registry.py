"""The runs of a server: concurrent creation, and the errors for a missing run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from infobatch_server.runs import registry as registry_module
from infobatch_server.runs.attach import AttachRequest
from infobatch_server.runs.memory import run_bytes
from infobatch_server.runs.registry import Registry
from infobatch_server.state.limits import Limits
from infobatch_server.state.run_state import Lease, ResumePoint
from infobatch_server.store.memory import MemoryStore
from infobatch_stream.errors import RunConflictError, RunNotFoundError
from infobatch_stream.plan.order_params import OrderChoice
from tests.server.calls import make_spec
from tests.server.conftest import Clock

LARGE = 2000
BYTES = sum(run_bytes(make_spec(), Limits().keep_plans).values())
LARGE_BYTES = sum(run_bytes(make_spec(num_samples=LARGE), Limits().keep_plans).values())


class SlowTables:
    """Creates score tables; one of LARGE samples waits for the test."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self.has_begun = threading.Event()
        self.may_end = threading.Event()
        self.error: Exception | None = None

    def __call__(self, num_samples: int, columns: Any) -> Any:
        if num_samples == LARGE:
            self.has_begun.set()
            assert self.may_end.wait(10)
            if self.error is not None:
                raise self.error
        return self._make(num_samples, columns)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> SlowTables:
    tables = SlowTables(registry_module.ScoreTable)
    monkeypatch.setattr(registry_module, "ScoreTable", tables)
    return tables


def test_others_create_and_delete_during_the_creation_of_a_large_run(tables: SlowTables) -> None:
    registry = Registry(MemoryStore(), Limits(memory_bytes=2 * LARGE_BYTES))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(registry.create, make_spec("large", num_samples=LARGE), OrderChoice())
        assert tables.has_begun.wait(10)
        small, created = registry.create(make_spec("small"), OrderChoice())
        assert created
        with pytest.raises(
            RunConflictError,
            match=rf"take {BYTES:,} bytes .*, but {LARGE_BYTES + BYTES:,} of {2 * LARGE_BYTES:,} are in use",
        ):
            registry.create(make_spec("third"), OrderChoice())
        registry.delete(small, force=False)
        second = pool.submit(registry.create, make_spec("large", num_samples=LARGE), OrderChoice())
        assert registry.runs() == []
        tables.may_end.set()
        run, created = first.result(10)
        assert created
        assert second.result(10) == (run, False)


def test_a_failed_creation_frees_the_name_and_the_memory(tables: SlowTables) -> None:
    registry = Registry(MemoryStore(), Limits(memory_bytes=LARGE_BYTES))
    tables.error = MemoryError()
    tables.may_end.set()
    with pytest.raises(MemoryError):
        registry.create(make_spec("large", num_samples=LARGE), OrderChoice())
    tables.error = None
    assert registry.create(make_spec("large", num_samples=LARGE), OrderChoice())[1]


class DurableStore(MemoryStore):
    """A store that claims to be durable."""

    durable = True


def test_the_error_for_a_missing_run_explains_a_server_in_memory() -> None:
    reason = "it keeps runs in memory only, and loses them when it restarts"
    for durable, store in ((False, MemoryStore()), (True, DurableStore())):
        registry = Registry(store, Limits())
        with pytest.raises(RunNotFoundError) as by_id:
            registry.by_id(b"x" * 16)
        with pytest.raises(RunNotFoundError) as by_name:
            registry.by_name("nobody")
        assert (f"; {reason}; start the training again under the same name" in str(by_id.value)) is not durable
        assert (f"; {reason}" in str(by_name.value)) is not durable


def test_the_error_for_a_deleted_run_says_when_by_whom_and_what_replaced_it(clock: Clock) -> None:
    registry = Registry(MemoryStore(), Limits(), clock)
    old, _ = registry.create(make_spec(), OrderChoice())
    registry.delete(old, force=False, by="a call from 10.0.0.7")
    clock.now += 90
    with pytest.raises(RunNotFoundError) as alone:
        registry.by_id(old.run_id)
    gone = f"run 'test' was deleted 90 s ago by a call from 10.0.0.7, and its scores with it (id {old.run_id.hex()})"
    assert str(alone.value) == f"{gone}; start the training again to begin a new run"
    with pytest.raises(RunNotFoundError) as by_name:
        registry.by_name("test")
    assert str(by_name.value).endswith("no run 'test': run 'test' was deleted 90 s ago by a call from 10.0.0.7")
    new, _ = registry.create(make_spec(), OrderChoice())
    what = "end this job if that one replaces it, or start it again under another run name"
    for lease, who in [
        (None, ""),
        (make_lease(), " by another process on host 'node1', pid 41"),
        (make_lease(job="slurm-7", attempt=2), " by job 'slurm-7' attempt 2 on host 'node1', pid 41"),
    ]:
        if lease is not None:
            new.attach(AttachRequest(lease=lease, resume=ResumePoint(new=True), takeover=True))
        with pytest.raises(RunNotFoundError) as replaced:
            registry.by_id(old.run_id)
        assert str(replaced.value) == f"{gone}, and a new run of that name was begun{who}; {what}"


def make_lease(job: str = "none", attempt: int = 0) -> Lease:
    return Lease(job=job, attempt=attempt, nonce=bytes([attempt]) * 16, host="node1", pid=41, world_size=1)
