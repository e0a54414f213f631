"""The runs of a server: creates, joins, finds and deletes them, by name or by id."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from infobatch_server.runs.deleted_runs import DeletedRuns
from infobatch_server.runs.memory import MemoryBudget, Upload, run_bytes
from infobatch_server.runs.run import Run
from infobatch_server.state.limits import Limits
from infobatch_server.state.run_state import RunState
from infobatch_server.store.interface import RunStore, StoredRun
from infobatch_stream.errors import ConfigError, RunConflictError, RunNotFoundError
from infobatch_stream.plan.order_params import OrderChoice
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.scores.table import ScoreTable

__all__ = ["Registry"]

log = logging.getLogger(__name__)


class Registry:
    """Every run of one server. Safe to call from many threads.

    Args:
        store: keeps the runs.
        limits: the server's limits.
        clock: monotonic clock in seconds, for leases and barriers.
    """

    def __init__(self, store: RunStore, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._lock = threading.Condition()
        self.memory = MemoryBudget(limits.memory_bytes)
        # Names of the runs under construction: allocating a large table takes seconds, and needs no lock.
        self._reserved: set[str] = set()
        # Names of the runs whose reserve for an upload is in use.
        self._joined: set[str] = set()
        self._by_id: dict[bytes, Run] = {}
        self._by_name: dict[str, Run] = {}
        self._deleted = DeletedRuns(clock)

    def load(self) -> None:
        """Takes over the runs that the store keeps. Called once, before any other call.

        Raises:
            ServerError: they can't be recovered.
        """
        for stored in self._store.load():
            run = Run(stored, self._store, self._limits, self._clock, self.memory)
            self.memory.add(self._bytes(run.spec))
            self._by_id[run.run_id] = self._by_name[run.spec.run] = run

    def create(self, spec: RunSpec, choice: OrderChoice) -> tuple[Run, bool]:
        """Creates the run of a spec, or joins it if it exists; returns the run and whether it is new.

        Args:
            spec: the spec of the run; an existing run must have the same.
            choice: the parameters of the order that the user set; only these are compared with an existing run's.

        Raises:
            RunConflictError: the run exists with another spec, or it would not fit into memory.
        """
        with self._lock:
            self._lock.wait_for(lambda: spec.run not in self._reserved)
            run = self._by_name.get(spec.run)
            if run is None:
                self.memory.add_run(spec, self._limits.keep_plans)
                self._reserved.add(spec.run)
        if run is None:
            return self._make(spec), True
        differing = [*run.spec.differences(spec), *choice.conflicts(run.spec.order)]
        if differing:
            raise RunConflictError(
                f"run {spec.run!r} exists with other settings: {'; '.join(differing)}. Use another run name, the run's "
                'settings, or if_exists="restart" to delete it'
            )
        return run, False

    @contextmanager
    def upload(self, name: str) -> Iterator[Upload]:
        """The account of a spec that is received, until it is one of a run, or refused.

        Every run has reserved the memory of one such upload, so that a job can join it on a server that is full.
        """
        with self._lock:
            run = self._by_name.get(name)
            joins = run is not None and name not in self._joined
            if joins:
                self._joined.add(name)
        reserved = run_bytes(run.spec, self._limits.keep_plans)["an upload"] if run is not None and joins else 0
        try:
            with self.memory.upload(f"the spec of run {name!r}", reserved=reserved) as upload:
                yield upload
        finally:
            if joins:
                self._joined.discard(name)

    def by_id(self, run_id: bytes) -> Run:
        """The run with this id.

        Raises:
            ConfigError: the id doesn't have 16 bytes.
            RunNotFoundError: the server has no such run.
        """
        if len(run_id) != 16:
            raise ConfigError(f"run_id must have 16 bytes; got {len(run_id)}")
        run = self._by_id.get(run_id)
        if run is None:
            raise RunNotFoundError(self._missing(run_id))
        return run

    def by_name(self, name: str) -> Run:
        """The run with this name.

        Raises:
            RunNotFoundError: the server has no such run.
        """
        run = self._by_name.get(name)
        if run is None:
            deleted = self._deleted.by_name(name)
            why = f": {deleted.describe(self._clock())}" if deleted else self._hint()
            raise RunNotFoundError(f"this server has no run {name[:128]!r}{why}")
        return run

    def find(self, name: str, run_id: bytes) -> Run:
        """The run with this name or this id; exactly one of them must be set.

        Raises:
            ConfigError: both or neither are set.
            RunNotFoundError: the server has no such run.
        """
        if bool(name) == bool(run_id):
            raise ConfigError("set either `run` or `run_id`, and not both")
        return self.by_name(name) if name else self.by_id(run_id)

    def runs(self) -> list[Run]:
        """All runs, sorted by name."""
        return [run for _, run in sorted(self._by_name.copy().items())]

    def delete(self, run: Run, *, force: bool, by: str = "") -> None:
        """Deletes a run and its stored data.

        Args:
            run: the run.
            force: delete it even if a job holds it.
            by: who asks for it, in words, for the errors of a job that still trains the run.

        Raises:
            RunBusyError: a job holds the run, and `force` is off.
            RunNotFoundError: the run was deleted before.
        """
        with self._lock:
            run.delete(force=force)
            self._deleted.add(run.run_id, run.spec.run, by)  # first: whoever misses the run finds it here
            del self._by_id[run.run_id], self._by_name[run.spec.run]
        run.core.streams.end_run(self._bytes(run.spec))
        log.info("run %s (%s): deleted%s", run.spec.run, run.run_id.hex(), f" by {by}" if by else "")

    def _make(self, spec: RunSpec) -> Run:
        """Creates the run for which memory was charged."""
        run = None
        try:
            table = ScoreTable(spec.num_samples, spec.policy.columns)
            run_id = os.urandom(16)
            self._store.create(run_id, spec)
            stored = StoredRun(run_id=run_id, spec=spec, state=RunState(), marks=(), table=table, journal_position=0)
            run = Run(stored, self._store, self._limits, self._clock, self.memory)
        finally:
            with self._lock:
                self._reserved.remove(spec.run)
                if run is None:
                    self.memory.release(self._bytes(spec))
                else:
                    self._by_id[run.run_id] = self._by_name[spec.run] = run
                self._lock.notify_all()
        log.info("run %s (%s): created, %d samples", spec.run, run_id.hex(), spec.num_samples)
        return run

    def _missing(self, run_id: bytes) -> str:
        """What became of a run that isn't here, and what to do."""
        deleted = self._deleted.by_id(run_id)
        if deleted is None:
            remedy = "" if self._store.durable else "; start the training again under the same name"
            return f"this server has no run with id {run_id.hex()}{self._hint()}{remedy}"
        gone = f"{deleted.describe(self._clock())}, and its scores with it (id {run_id.hex()})"
        if (after := self._by_name.get(deleted.name)) is None:
            return f"{gone}; start the training again to begin a new run"
        lease = after.core.state.lease
        return (
            f"{gone}, and a new run of that name was begun{f' by {lease.holder}' if lease else ''}; end this job if "
            "that one replaces it, or start it again under another run name"
        )

    def _hint(self) -> str:
        return "" if self._store.durable else "; it keeps runs in memory only, and loses them when it restarts"

    def _bytes(self, spec: RunSpec) -> int:
        return sum(run_bytes(spec, self._limits.keep_plans).values())
