"""The parts that all code of a run shares: its lock, state and lease, and the checks of a call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from infobatch_server.runs.barrier import Barrier
from infobatch_server.runs.memory import MemoryBudget, plan_bytes
from infobatch_server.runs.score_feed import ScoreFeed
from infobatch_server.runs.streams import RunStreams
from infobatch_server.state.limits import Limits
from infobatch_server.state.run_state import Lease, RunState
from infobatch_server.store.interface import RunStore, StoredRun
from infobatch_stream.errors import ConfigError, RunConflictError, RunNotFoundError, SupersededError

__all__ = ["LEASE_S", "RunCore"]

LEASE_S = 30.0
"""A job's lease expires this long after its last call."""


class RunCore:
    """One run's state and lock.

    `lock` guards everything here. A state is replaced as a whole, and only after its store has saved it.

    Args:
        stored: the run as its store loads it; a new one is empty.
        store: saves every change before it is answered.
        limits: the server's limits.
        clock: monotonic clock, in seconds.
        memory: of the whole server.
    """

    def __init__(
        self,
        stored: StoredRun,
        store: RunStore,
        limits: Limits,
        clock: Callable[[], float],
        memory: MemoryBudget,
    ) -> None:
        self.run_id = stored.run_id
        self.spec = stored.spec
        subset = stored.spec.subset
        self.full_samples = stored.spec.num_samples if subset is None else int(np.count_nonzero(subset))
        self.store = store
        self.limits = limits
        self.clock = clock
        self.memory = memory
        self.lock = threading.Condition()
        self.streams = RunStreams(memory, self.lock, plan_bytes(self.spec.num_samples, self.spec.num_shards))
        self.barrier = Barrier(clock)
        for mark in stored.marks:
            self.barrier.add(mark)
        self.feed = ScoreFeed(
            stored.run_id,
            store,
            stored.table,
            position=stored.journal_position,
            entry=stored.journal_entry,
            lock=self.lock,
            max_pending_bytes=limits.max_in_flight_bytes,
            memory=memory,
            world_size=stored.state.lease.world_size if stored.state.lease else 1,
            stored_scores=stored.stored_scores,
            rejected_scores=stored.rejected_scores,
        )
        for client_id, sequence in stored.batches:
            self.feed.remember(client_id, sequence)
        store.follow(stored.run_id, self.feed.capture)
        self.deleted = False
        # Ranks of the current generation that have detached. Not stored: after a restart of the server, the lease
        # simply expires.
        self.detached_ranks: set[int] = set()
        self._state = stored.state
        # A stored lease counts as just renewed.
        self._last_call = clock()

    @property
    def state(self) -> RunState:
        """The state of the last transaction, with `trained` up to date."""
        with self.lock:
            if self._state.trained or not self.feed.stored_scores:
                return self._state
            return replace(self._state, trained=True)

    @property
    def lease_left_s(self) -> float:
        """Seconds until the attached job's lease expires; 0 if no job holds the run."""
        with self.lock:
            if self._state.lease is None or self._state.detached:
                return 0.0
            return max(0.0, self._last_call + LEASE_S - self.clock())

    def renew(self) -> None:
        """Renews the lease of the attached job."""
        self._last_call = self.clock()

    def adopt(self, state: RunState) -> None:
        """Replaces the state by one that the store has saved."""
        self.streams.drop(set(self._state.plan_ids.values()).difference(state.plan_ids.values()))
        self._state = state

    def save(self, state: RunState) -> None:
        """Saves a state in the store, then replaces the state by it."""
        self.store.save(self.run_id, state)
        self.adopt(state)

    def check_exists(self) -> None:
        """Raises RunNotFoundError if the run was deleted."""
        if self.deleted:
            raise RunNotFoundError(f"run {self.spec.run!r} was deleted, and its scores with it")

    def admit(self, generation: int) -> Lease:
        """Checks that a call is of the current generation, and renews and returns the lease.

        Raises:
            SupersededError: the generation is an older one.
            RunConflictError: the generation never attached, or is 0.
            RunNotFoundError: the run was deleted.
        """
        self.check_exists()
        current, lease = self._state.generation, self._state.lease
        if 1 <= generation < current:
            by = f" ({lease.holder})" if lease else ""
            raise SupersededError(
                f"superseded: generation {generation} of run {self.spec.run!r} was replaced by {current}{by}"
            )
        if generation != current or lease is None:
            raise RunConflictError(
                f"generation {generation} of run {self.spec.run!r} never attached (the newest is {current}); "
                "attach first"
            )
        self.renew()
        return lease

    def check_rank(self, rank: int, lease: Lease) -> None:
        """Raises ConfigError if the attached job has no such rank."""
        if rank >= lease.world_size:
            raise ConfigError(
                f"rank {rank} is outside the world size {lease.world_size} with which the job attached; attach with "
                "the number of all ranks"
            )

    def check_epoch(self, epoch: int) -> None:
        """Raises ConfigError for an epoch outside the run's schedule."""
        epochs = self.spec.schedule.epochs
        if epoch >= epochs:
            raise ConfigError(
                f"epoch {epoch} is outside the {epochs} epochs of run {self.spec.run!r}; a longer training needs a new "
                'run: use another run name, or start this one over with if_exists="restart"'
            )

    def check_opened(self, epoch: int, *, ahead: int = 0) -> None:
        """Raises RunConflictError for an epoch that is more than `ahead` epochs after the newest open one.

        A score of a future epoch would make all scores of the epochs before it stale.
        """
        newest = self._state.last_epoch
        if epoch > newest + ahead:
            status = "no epoch has been opened yet" if newest < 0 else f"the newest epoch is {newest}"
            raise RunConflictError(f"epoch {epoch} of run {self.spec.run!r} was not opened: {status}")
