"""Runs without a network, for tests of one run's state machine, and a function for each call of a job."""

from __future__ import annotations

import numpy as np

from infobatch_server.runs.attach import AttachRequest
from infobatch_server.runs.registry import Registry
from infobatch_server.runs.run import Run
from infobatch_server.state.limits import Limits
from infobatch_server.state.run_state import EpochMark, Lease, ResumePoint
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_server.store.memory import MemoryStore
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.plan.order_params import OrderChoice
from infobatch_stream.run_spec import RunSpec
from tests.server.calls import make_spec
from tests.server.conftest import Clock

NEW = ResumePoint(new=True)


def make_run(clock: Clock, spec: RunSpec | None = None, limits: Limits | None = None) -> Run:
    return Registry(MemoryStore(), limits or Limits(), clock).create(spec or make_spec(), OrderChoice())[0]


def attach(
    run: Run,
    resume: ResumePoint = NEW,
    *,
    job: str = "none",
    attempt: int = 0,
    nonce: int = 0,
    world_size: int = 1,
    takeover: bool = False,
) -> int:
    lease = Lease(
        job=job, attempt=attempt, nonce=nonce.to_bytes(16, "big"), host="node1", pid=41, world_size=world_size
    )
    return run.attach(AttachRequest(lease=lease, resume=resume, takeover=takeover))


def plan(run: Run, generation: int, epoch: int) -> EpochPlan:
    got = run.plans.get(generation, epoch)
    assert isinstance(got, EpochPlan), got
    return got


def push(run: Run, generation: int, epoch: int, scores: np.ndarray, sequence: int = 1) -> None:
    push_some(run, generation, epoch, np.arange(len(scores)), scores, sequence)


def push_some(
    run: Run, generation: int, epoch: int, indices: np.ndarray, scores: np.ndarray, sequence: int = 1
) -> None:
    client = generation.to_bytes(8, "big") + epoch.to_bytes(8, "big")
    run.push(ScoreBatch(generation, client, sequence, epoch, indices, scores.astype(np.float32)))


def end(run: Run, generation: int, epoch: int, plan_id: str, rank: int = 0) -> tuple[int, ...]:
    mark = EpochMark(generation=generation, epoch=epoch, rank=rank, plan_id=plan_id, start_position=0, end_position=10)
    return run.end_epoch(mark)


def train(run: Run, generation: int, epoch: int, seed: int = 0) -> EpochPlan:
    """Trains one epoch of a job with one rank."""
    got = plan(run, generation, epoch)
    push(run, generation, epoch, np.random.default_rng([seed, epoch]).random(run.spec.num_samples))
    assert end(run, generation, epoch, got.plan_id) == ()
    return got
