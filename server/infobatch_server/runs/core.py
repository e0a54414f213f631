"""What every part of a run shares: its lock, its state, its lease, and who may still call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from infobatch_server.runs.barrier import Barrier
from infobatch_server.runs.score_feed import ScoreFeed
from infobatch_server.state.limits import Limits
from infobatch_server.state.run_state import Lease, RunState
from infobatch_server.store.interface import RunStore, StoredRun
from infobatch_stream.errors import ConfigError, RunConflictError, RunNotFoundError, SupersededError

__all__ = ["LEASE_S", "RunCore"]

LEASE_S = 30.0
"""How long a job keeps its run after its last call."""


class RunCore:
    """One run's state and lock.

    `turn` guards everything here; a state is replaced as a whole, and only after its store has it.

    Args:
        stored: the run as its store gives it back; a new one is empty.
        store: keeps what changes, before it is answered.
        limits: bounds.
        clock: seconds that only rise.
    """

    def __init__(self, stored: StoredRun, store: RunStore, limits: Limits, clock: Callable[[], float]) -> None:
        self.run_id = stored.run_id
        self.spec = stored.spec
        subset = stored.spec.subset
        self.full_samples = stored.spec.num_samples if subset is None else int(np.count_nonzero(subset))
        self.store = store
        self.limits = limits
        self.clock = clock
        self.turn = threading.Condition()
        self.barrier = Barrier(clock)
        for mark in stored.marks:
            self.barrier.add(mark)
        self.feed = ScoreFeed(
            stored.run_id,
            store,
            stored.table,
            position=stored.journal_position,
            turn=self.turn,
            max_held_bytes=limits.max_in_flight_bytes,
            stored_scores=stored.stored_scores,
            rejected_scores=stored.rejected_scores,
        )
        for client_id, sequence in stored.batches:
            self.feed.remember(client_id, sequence)
        self.deleted = False
        # Ranks of the present generation that have ended. Not kept: a server that was started again lets the lease
        # run out.
        self.detached_ranks: set[int] = set()
        self._state = stored.state
        # A lease that outlived the server counts as just renewed.
        self._last_call = clock()

    @property
    def state(self) -> RunState:
        """The state of the last transaction, its `trained` up to date."""
        with self.turn:
            if self._state.trained or not self.feed.stored_scores:
                return self._state
            return replace(self._state, trained=True)

    @property
    def lease_left_s(self) -> float:
        """Seconds for which the attached job still holds the run; 0 where none does."""
        with self.turn:
            if self._state.lease is None or self._state.detached:
                return 0.0
            return max(0.0, self._last_call + LEASE_S - self.clock())

    def renew(self) -> None:
        """The attached job has called."""
        self._last_call = self.clock()

    def adopt(self, state: RunState) -> None:
        """Takes a state that the store has."""
        self._state = state

    def save(self, state: RunState) -> None:
        """Stores a state, and takes it."""
        self.store.save(self.run_id, state)
        self.adopt(state)

    def check_exists(self) -> None:
        """Raises RunNotFoundError once the run was deleted."""
        if self.deleted:
            raise RunNotFoundError(f"run {self.spec.run!r} was deleted")

    def admit(self, generation: int) -> Lease:
        """Lets a call of the present generation through, and renews its lease.

        Raises:
            SupersededError: of an older generation.
            RunConflictError: of none, or of one that never was.
        """
        self.check_exists()
        present, lease = self._state.generation, self._state.lease
        if 1 <= generation < present:
            by = f" (job {lease.job!r} on host {lease.host!r}, pid {lease.pid})" if lease else ""
            raise SupersededError(
                f"superseded: generation {generation} of run {self.spec.run!r} was followed by {present}{by}"
            )
        if generation != present or lease is None:
            raise RunConflictError(
                f"generation {generation} of run {self.spec.run!r} never attached (the newest is {present}); "
                "attach first"
            )
        self.renew()
        return lease

    def check_rank(self, rank: int, lease: Lease) -> None:
        """Raises ConfigError for a rank that the attached job doesn't have."""
        if rank >= lease.world_size:
            raise ConfigError(
                f"rank {rank} is outside the world of {lease.world_size}: attach with the number of ranks that call"
            )

    def check_epoch(self, epoch: int) -> None:
        """Raises ConfigError for an epoch outside the run's schedule."""
        epochs = self.spec.schedule.epochs
        if epoch >= epochs:
            raise ConfigError(
                f"epoch {epoch} is outside the {epochs} epochs of run {self.spec.run!r}; a longer training is another "
                'run: use another run name, or start this one over with if_exists="restart"'
            )

    def check_opened(self, epoch: int, *, ahead: int = 0) -> None:
        """Raises RunConflictError for an epoch that is more than `ahead` after the newest one that was opened.

        A score of an epoch to come would make all those before it stale.
        """
        newest = self._state.last_epoch
        if epoch > newest + ahead:
            opened = "no epoch has been opened yet" if newest < 0 else f"the newest epoch is {newest}"
            raise RunConflictError(f"epoch {epoch} of run {self.spec.run!r} was not opened: {opened}")
