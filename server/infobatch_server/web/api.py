"""The REST endpoint: health, and what every run prunes. Read-only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field

from infobatch_server.runs.registry import Registry
from infobatch_server.runs.snapshot import RunSnapshot, snapshot
from infobatch_server.state.run_state import Lease, PlanSummary
from infobatch_server.web.host_check import HostCheck
from infobatch_stream.errors import RunNotFoundError

__all__ = ["ClassStats", "EpochStats", "RunDetails", "RunList", "RunStats", "make_app"]


class ClassStats(BaseModel):
    """One class of the newest plan."""

    name: str
    size: int = Field(description="samples in the class")
    kept: int = Field(description="samples kept of it")
    weight: float = Field(description="of a kept sample")


class RunStats(BaseModel):
    """One run. What belongs to the newest plan is null before the first."""

    run: str
    run_id: str = Field(description="32 hexadecimal digits")
    num_samples: int
    num_shards: int
    policy: str
    score_name: str = Field(description="the name of what is pushed")
    biased: bool = Field(description="the policy's weights don't make up for what it prunes")
    epochs: int
    anneal_epoch: int = Field(description="the first epoch of the unpruned end")
    last_epoch: int = Field(description="the newest epoch that was opened; -1 before the first")
    trained: bool = Field(description="a score was stored, or an epoch ended after samples were trained")
    generation: int = Field(description="attachments so far")
    job: str | None = Field(None, description="the job that holds the run now")
    attempt: int | None = Field(None, description="that job's n-th start, from 0")
    host: str | None = Field(None, description="where that job attached")
    pid: int | None = Field(None, description="the process that attached")
    world_size: int | None = Field(None, description="that job's ranks")
    plan_id: str | None = Field(None, description="of the newest plan, as all that follows up to `classes`")
    epoch: int | None = None
    unpruned: bool | None = Field(None, description="nothing is pruned in this epoch")
    threshold: float | None = Field(None, description="Eq. 3; null where the policy has none")
    low_share: float | None = Field(None, description="low samples by scored ones, where a threshold made the class")
    kept: int | None = None
    pruned: int | None = None
    prune_requested: int | None = Field(None, description="samples that the policy meant to prune")
    never_scored: int | None = None
    classes: list[ClassStats] | None = None
    stored_scores: int = Field(description="since the run was created")
    rejected_scores: int = Field(description="NaN and infinite scores since the run was created")
    stale_scores: int = Field(description="scores older than the sample's, since the server started")
    barrier_timeouts: int = Field(description="plans that did not wait for every rank")
    unusual_low_classes: int = Field(description="plans whose low class was outside [0.2, 0.95] of the scored")
    epochs_ended: int = Field(description="epochs that every rank has ended; the totals that follow are of these")
    trained_samples: int = Field(description="samples trained, once for every epoch")
    saved_samples: int = Field(description="samples that these epochs did not train, of those that the mask lets in")
    saved_share: float | None = Field(None, description="by what would have been trained unpruned; null before any")


class EpochStats(BaseModel):
    """The plan of one epoch."""

    epoch: int
    kept: int
    pruned: int
    threshold: float | None = Field(None, description="null where the plan has none")
    unpruned: bool = Field(description="nothing is pruned in this epoch")


class RunDetails(RunStats):
    """One run, and its plans so far."""

    history: list[EpochStats] = Field(description="by epoch, up to the newest")


class RunList(BaseModel):
    """Every run, by name."""

    runs: list[RunStats]


def make_app(registry: Registry, *, version: str, is_ready: Callable[[], bool], loopback: bool) -> FastAPI:
    """The application.

    Args:
        registry: the runs.
        version: the server's.
        is_ready: whether calls are answered.
        loopback: bound to loopback only; then requests must name it.
    """
    app = FastAPI(
        title="infobatch score server",
        version=version,
        description="Pruning statistics of the runs of a score server. Read-only; training talks gRPC.",
    )
    if loopback:
        app.add_middleware(HostCheck)

    @app.get("/healthz", response_class=PlainTextResponse, summary="The process answers.")
    def healthz() -> str:
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse, summary="Runs can be used; 503 while starting or stopping.")
    def readyz() -> PlainTextResponse:
        ready = is_ready()
        return PlainTextResponse("ready\n" if ready else "not ready\n", 200 if ready else 503)

    @app.get("/v1/runs", summary="Every run, by name.")
    def list_runs() -> RunList:
        return RunList(runs=[run_stats(snapshot(run)) for run in registry.runs()])

    @app.get("/v1/runs/{run}", summary="One run.", responses={404: {"description": "no such run"}})
    def get_run(run: str) -> RunDetails:
        try:
            now = snapshot(registry.by_name(run))
        except RunNotFoundError as error:
            raise HTTPException(404, str(error)) from error
        return RunDetails(**dict(run_stats(now)), history=_history(now))

    @app.exception_handler(404)
    def not_found(_request: object, error: HTTPException) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, 404)

    return app


def run_stats(now: RunSnapshot) -> RunStats:
    """A snapshot as JSON has it."""
    spec, state, savings = now.spec, now.state, now.savings
    return RunStats(
        run=spec.run,
        run_id=now.run_id.hex(),
        num_samples=spec.num_samples,
        num_shards=len(spec.shard_sizes),
        policy=spec.policy.name,
        score_name=spec.score_name,
        biased=spec.policy.biased,
        epochs=spec.schedule.epochs,
        anneal_epoch=spec.schedule.anneal_epoch,
        last_epoch=state.last_epoch,
        trained=state.trained,
        generation=state.generation,
        stored_scores=now.stored_scores,
        rejected_scores=now.rejected_scores,
        stale_scores=now.stale_scores,
        barrier_timeouts=state.barrier_timeouts,
        unusual_low_classes=state.unusual_low_classes,
        epochs_ended=savings.epochs_ended,
        trained_samples=savings.trained,
        saved_samples=savings.saved,
        saved_share=savings.share,
        **_job_stats(now.lease),
        **_plan_stats(state.newest_plan),
    )


def _job_stats(lease: Lease | None) -> dict[str, Any]:
    if lease is None:
        return {}
    return {name: getattr(lease, name) for name in ("job", "attempt", "host", "pid", "world_size")}


def _plan_stats(plan: PlanSummary | None) -> dict[str, Any]:
    if plan is None:
        return {}
    plain = ("plan_id", "epoch", "unpruned", "kept", "pruned", "prune_requested", "never_scored")
    return {
        **{name: getattr(plan, name) for name in plain},
        "threshold": _finite(plan.threshold),
        "low_share": _finite(plan.low_share),
        "classes": [ClassStats(name=row.name, size=row.size, kept=row.kept, weight=row.weight) for row in plan.classes],
    }


def _history(now: RunSnapshot) -> list[EpochStats]:
    return [
        EpochStats(
            epoch=epoch,
            kept=line.kept,
            pruned=line.pruned,
            threshold=_finite(line.threshold),
            unpruned=line.unpruned,
        )
        for epoch, line in now.history
    ]


def _finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if value is not None and math.isfinite(value) else None
