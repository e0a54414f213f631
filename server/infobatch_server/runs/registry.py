"""The runs of a server, by name and by id: creating, joining, finding and deleting them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

import numpy as np

from infobatch_server.runs.run import Run
from infobatch_server.state.limits import BYTES_PER_SAMPLE, Limits
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
        store: where runs are kept; what it has is loaded at once.
        limits: bounds.
        clock: seconds that only rise, for leases and barriers.
    """

    def __init__(self, store: RunStore, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._turn = threading.Condition()
        # Bytes of runs that are being made, by name: filling a large table takes seconds, and is done without the lock.
        self._reserved: dict[str, int] = {}
        self._by_id = {stored.run_id: Run(stored, store, limits, clock) for stored in store.load()}
        self._by_name = {run.spec.run: run for run in self._by_id.values()}

    def create(self, spec: RunSpec, choice: OrderChoice) -> tuple[Run, bool]:
        """The run of a spec's name, and whether it is new.

        Args:
            spec: what it is, or must be.
            choice: what the user set of the order; the rest is the run's, where there is one.

        Raises:
            RunConflictError: the run exists and is another, or its scores would not fit into memory.
        """
        with self._turn:
            self._turn.wait_for(lambda: spec.run not in self._reserved)
            run = self._by_name.get(spec.run)
            if run is None:
                self._reserve(spec)
        if run is None:
            return self._make(spec), True
        differing = [*run.spec.differences(spec), *choice.conflicts(run.spec.order)]
        if differing:
            raise RunConflictError(
                f"run {spec.run!r} exists and is another: {'; '.join(differing)}. Use another run name, the run's own "
                'settings, or if_exists="restart" to delete it'
            )
        return run, False

    def by_id(self, run_id: bytes) -> Run:
        """The run of an id.

        Raises:
            ConfigError: not 16 bytes.
            RunNotFoundError: there is none.
        """
        if len(run_id) != 16:
            raise ConfigError(f"run_id has {len(run_id)} bytes, not 16")
        run = self._by_id.get(run_id)
        if run is None:
            remedy = "" if self._store.durable else ": start the training again under the same name"
            raise RunNotFoundError(f"this server has no run of id {run_id.hex()}{self._hint()}{remedy}")
        return run

    def by_name(self, name: str) -> Run:
        """The run of a name.

        Raises:
            RunNotFoundError: there is none.
        """
        run = self._by_name.get(name)
        if run is None:
            raise RunNotFoundError(f"this server has no run {name[:128]!r}{self._hint()}")
        return run

    def find(self, name: str, run_id: bytes) -> Run:
        """The run of a name or of an id, whichever of the two is set.

        Raises:
            ConfigError: both are, or neither.
            RunNotFoundError: there is none.
        """
        if bool(name) == bool(run_id):
            raise ConfigError("name a run by `run` or by `run_id`, one of the two")
        return self.by_name(name) if name else self.by_id(run_id)

    def runs(self) -> list[Run]:
        """Every run, by name."""
        return [run for _, run in sorted(self._by_name.copy().items())]

    def delete(self, run: Run, *, force: bool) -> None:
        """Deletes a run and what is stored of it.

        Raises:
            RunBusyError: a job holds it, and `force` is off.
            RunNotFoundError: it is gone already.
        """
        with self._turn:
            run.delete(force=force)
            del self._by_id[run.run_id], self._by_name[run.spec.run]
        log.info("run %s (%s): deleted", run.spec.run, run.run_id.hex())

    def _reserve(self, spec: RunSpec) -> None:
        needed = _resident_bytes(spec)
        used = sum(_resident_bytes(run.spec) for run in self._by_id.values()) + sum(self._reserved.values())
        if used + needed > self._limits.memory_bytes:
            raise RunConflictError(
                f"the scores of run {spec.run!r} take {needed:,} bytes; {used:,} of {self._limits.memory_bytes:,} are "
                "in use: start the server with a larger --memory-bytes, or reuse the name of a run that is no longer "
                'needed, with if_exists="restart", which deletes that run'
            )
        self._reserved[spec.run] = needed

    def _make(self, spec: RunSpec) -> Run:
        """Makes the run that `_reserve` has made room for."""
        run = None
        try:
            table = ScoreTable(spec.num_samples, spec.policy.columns)
            run_id = os.urandom(16)
            self._store.create(run_id, spec)
            stored = StoredRun(run_id=run_id, spec=spec, state=RunState(), marks=(), table=table, journal_position=0)
            run = Run(stored, self._store, self._limits, self._clock)
        finally:
            with self._turn:
                del self._reserved[spec.run]
                if run is not None:
                    self._by_id[run.run_id] = self._by_name[spec.run] = run
                self._turn.notify_all()
        log.info("run %s (%s): created, %d samples", spec.run, run_id.hex(), spec.num_samples)
        return run

    def _hint(self) -> str:
        return (
            "" if self._store.durable else "; it keeps runs in memory, and has forgotten those of before its last start"
        )


def _resident_bytes(spec: RunSpec) -> int:
    columns = sum(np.dtype(column.dtype).itemsize for column in spec.policy.columns)
    return int(spec.num_samples * (BYTES_PER_SAMPLE + columns))
