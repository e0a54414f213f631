"""The epochs of a run: all of its ranks open them together, push their scores and report their ends."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infobatch_client.epochs.open_epoch import OpenEpoch
from infobatch_client.epochs.source import NextEpoch, TrainingSource
from infobatch_client.ranks.ranks import Ranks
from infobatch_client.run.joining import Joined
from infobatch_client.run.options import RunOptions
from infobatch_client.run.resume_state import ResumeState
from infobatch_client.run.training_run import TrainingRun
from infobatch_client.tie.columns import DeclaredColumn
from infobatch_client.tie.ticket import Ticket
from infobatch_client.tie.weighting import HostScores
from infobatch_stream.errors import ConfigError, StateError
from infobatch_stream.manifest import Manifest
from infobatch_stream.plan.order_params import OrderParams

__all__ = ["TrainingEpochs"]

_SAME_FOR_ALL = "give every rank the same shards, settings, batch_size and state, and leave an epoch at the same batch"


class TrainingEpochs(TrainingSource):
    """The epochs of a run. Contacts the server, and the other ranks, when the first one is opened.

    Args:
        options: the run's.
        manifest: the shards'.
        ranks: of the job.
        batch_size: rows by rank and step.
        remainder: "fill" or "drop".
    """

    def __init__(
        self, options: RunOptions, manifest: Manifest, *, ranks: Ranks, batch_size: int, remainder: str
    ) -> None:
        self._options = options
        self._manifest = manifest
        self._ranks = ranks
        self._batch_size = batch_size
        self._remainder = remainder
        self._stopped_at: int | None = None
        self._last_metrics: dict[str, float] = {}
        self._run: TrainingRun | None = None
        self._joined: Joined | None = None
        self._state: ResumeState | None = None
        self.columns: Sequence[DeclaredColumn] = options.policy.pushed_columns
        self.num_epochs = self._options.schedule.epochs
        subset = self._options.subset
        self.num_samples = self._manifest.num_samples if subset is None else int(np.count_nonzero(subset))

    @property
    def progress(self) -> float:
        """Between epochs: the number of those that are over; before a loaded state's epoch is open, the state's."""
        return self._state.progress if self._state is not None else super().progress

    @property
    def has_begun(self) -> bool:
        """Whether it has joined the run."""
        return self._joined is not None

    @property
    def may_begin_anywhere(self) -> bool:
        """Before the first epoch, unless a loaded state says which it is."""
        return self._joined is None and self._state is None

    def begin_at(self, epoch: int) -> None:
        """If it is the first one, `open` resumes the run at the start of `epoch`: the scores of those before exist."""
        self.next_epoch = epoch

    @property
    def ahead(self) -> tuple[int, int]:
        """A loaded state's, if it is inside an epoch."""
        state = self._state
        return (state.epoch_positions, state.positions) if state is not None and state.inside else super().ahead

    def open(self, max_steps: int | None = None) -> NextEpoch:
        """Compares the settings of all ranks, connects the first time, and gets the plan of the next epoch."""
        if self.next_epoch >= self.num_epochs:
            raise ConfigError(
                f"all {self.num_epochs} epochs of the run's schedule are trained: to train on, make a run of more "
                "epochs under another name (run=…)"
            )
        self._ranks.compare(
            f"open epoch {self.next_epoch}",
            lambda: {**self._seen(), "max_steps": max_steps},
            _SAME_FOR_ALL + self._manifest.left_out_hint,
        )
        if self._run is None:
            self._run = TrainingRun(
                self._options,
                self._manifest,
                ranks=self._ranks,
                batch_size=self._batch_size,
                state=self._state,
                start_epoch=self.next_epoch,
            )
        self._joined = self._run.joined
        state = self._state  # kept until the epoch is over: opening may fail, and be tried again
        inside = state is not None and state.inside
        plan, path = self._run.plans.get(self.next_epoch, str(state.plan_id) if state and inside else "")
        if state is not None and inside and state.epoch_positions > plan.kept:
            raise StateError(
                f"epoch_positions: the state has {state.epoch_positions}, its plan keeps {plan.kept} samples"
            )
        base_seed = None
        if self._ranks.has_replicas:
            base_seed = self._ranks.from_first_replica("share the seed of random augmentations", torch.initial_seed)
        start = state.positions if state and inside else 0
        return NextEpoch(self.next_epoch, plan, path, start, plan.generation, base_seed)

    def push(self, ticket: Ticket, scores: HostScores) -> None:
        """Queues scores."""
        assert self._run is not None
        self._run.push(ticket, scores)

    def report_dropped(self, epoch: OpenEpoch, samples: npt.NDArray[np.int64]) -> None:
        """Queues them."""
        assert self._run is not None
        self._run.report_dropped(epoch.number, samples)

    def advance(self, epoch: OpenEpoch) -> None:
        """A loaded state is used up."""
        super().advance(epoch)
        self._state = None
        self._stopped_at = epoch.positions

    def end(self, epoch: OpenEpoch, *, wait: bool = True) -> None:
        """Queues EndEpoch, and waits up to `flush_timeout_s` for the scores queued before it."""
        assert self._run is not None
        self._run.end_epoch(epoch.plan, start=epoch.opening.start, end=epoch.positions, counts=epoch.counts)
        if wait:
            self._run.flush()

    def state(self, epoch: OpenEpoch | None) -> dict[str, Any]:
        """Positions of the open epoch, or the start of the next."""
        if epoch is None and self._state is not None:
            return self._state.to_dict()  # as it was loaded
        if self._run is not None:
            self._run.warn_if_it_forgets()
        order = self._order()
        joined = self._joined
        return ResumeState(
            run=joined.spec.run if joined else self._options.run,
            run_id=joined.run_id.hex() if joined else None,
            plan_id=epoch.plan.plan_id if epoch else None,
            manifest_fingerprint=self._manifest.fingerprint.hex(),
            lanes=order.lanes,
            stripe=order.stripe,
            window_shards=order.window_shards,
            run_samples=order.run_samples,
            seed=self._options.seed,
            epoch=epoch.number if epoch else self.next_epoch if joined else 0,
            positions=epoch.positions if epoch else 0,
            epoch_positions=epoch.opening.end if epoch else 0,
        ).to_dict()

    def load(self, state: Mapping[str, Any]) -> None:
        """Checks all that needs no server; the rest is checked when the first epoch is opened."""
        loaded = ResumeState.from_dict(state)
        loaded.check_dataset(self._manifest, self._options.seed)
        if not self._options.fresh and loaded.run != self._options.run:
            raise StateError(f"run: the state has {loaded.run}, this dataset asks for {self._options.run}")
        if loaded.run_id is None:
            return  # it was saved before any epoch was opened: there is nothing to resume
        self._state = loaded
        self.next_epoch = loaded.next_epoch

    def metrics(self) -> dict[str, float]:
        """Records pushed, rejected and lost, retries, and the lag in seconds."""
        pusher = self._run.pusher if self._run is not None else None
        if pusher is None:
            return dict(self._last_metrics)
        counts = pusher.counts
        return {
            "scores_pushed": counts.pushed,
            "scores_rejected": counts.rejected,
            "scores_lost": counts.lost,
            "push_retries": counts.retries,
            "push_lag_s": pusher.lag_s,
        }

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits at most `timeout_s`, or the run's `flush_timeout_s`."""
        return self._run is None or self._run.flush(timeout_s)

    def close(self, timeout_s: float | None) -> None:
        """Sends the pending scores and gives the lease back."""
        if self._run is not None:
            run = self._run
            try:
                run.close(timeout_s)
            finally:
                self._last_metrics, self._run = self.metrics(), None

    def _order(self) -> OrderParams:
        if self._joined is not None:
            return self._joined.spec.order
        return self._options.spec(self._manifest, global_batch=self._batch_size * self._ranks.world_size).order

    def _seen(self) -> dict[str, Any]:
        """The values on which all ranks must agree before an epoch opens, causes before their consequences."""
        if self._run is not None:
            self._run.check()
        options, state = self._options, self._state
        subset = options.subset
        return {
            "url": options.url,
            "run": None if options.fresh else options.run,
            "manifest_fingerprint": self._manifest.fingerprint.hex(),
            "policy": repr(options.policy),
            "schedule": repr(options.schedule),
            "seed": options.seed,
            "score_name": options.score_name,
            "order": repr(options.order),
            "groups": None if options.groups is None else str(options.groups),
            "subset": None if subset is None else hashlib.sha256(np.packbits(subset).tobytes()).hexdigest(),
            "drops": options.drops,
            "batch_size": self._batch_size,
            "remainder": self._remainder,
            "world_size": self._ranks.world_size,
            "loaded state": None if state is None else state.place,
            "the position where the epoch before was left": self._stopped_at,
            "epoch": self.next_epoch,
            "generation": self._run.joined.generation if self._run is not None else None,
        }
