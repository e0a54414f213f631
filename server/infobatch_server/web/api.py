"""The REST endpoint: health, and the pruning statistics of every run. Read-only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field

from infobatch_server.access.access import Access
from infobatch_server.process.address import Address
from infobatch_server.runs.registry import Registry
from infobatch_server.runs.snapshot import RunSnapshot, snapshot
from infobatch_server.state.run_state import Lease, PlanSummary
from infobatch_server.web.host_check import HostCheck
from infobatch_server.web.token_check import TokenCheck
from infobatch_stream.errors import RunNotFoundError

__all__ = ["ClassStats", "EpochStats", "GroupStats", "RunDetails", "RunList", "RunStats", "ServerInfo", "make_app"]


class ClassStats(BaseModel):
    """One class of the newest plan."""

    name: str
    size: int = Field(description="samples in the class")
    kept: int = Field(description="samples kept of the class")
    weight: float = Field(description="weight of a kept sample")


class GroupStats(BaseModel):
    """One group of shards in the newest plan."""

    name: str
    samples: int = Field(description="samples that may be trained")
    scored: int = Field(description="samples with a score when the plan was drawn")
    threshold: float | None = Field(None, description="the group's own; null if the policy has none for each group")
    low_share: float | None = Field(None, description="the share of the scored samples beyond that threshold")
    mean_score: float | None = Field(None, description="of the scored samples; null if there are none")
    kept: int
    pruned: int


class RunStats(BaseModel):
    """One run. The fields of the newest plan are null before the first plan."""

    run: str
    run_id: str = Field(description="32 hexadecimal digits")
    num_samples: int
    num_shards: int
    policy: str
    score_name: str = Field(description="the name of the pushed score")
    biased: bool = Field(description="the policy's weights don't compensate for the pruned samples")
    epochs: int
    anneal_epoch: int = Field(description="the first epoch of the final, unpruned epochs")
    last_epoch: int = Field(description="the newest epoch that was opened; -1 before the first")
    trained: bool = Field(description="a score was stored, or an epoch ended after samples were trained")
    generation: int = Field(description="the current generation; 0 before the first attachment")
    job: str | None = Field(None, description="the job that holds the run")
    attempt: int | None = Field(None, description="the number of that job's start, from 0")
    host: str | None = Field(None, description="the host from which that job attached")
    pid: int | None = Field(None, description="the id of the process that attached")
    world_size: int | None = Field(None, description="the number of that job's ranks")
    plan_id: str | None = Field(None, description="id of the newest plan; the fields up to `groups` describe it")
    epoch: int | None = None
    unpruned: bool | None = Field(None, description="nothing is pruned in this epoch")
    threshold: float | None = Field(None, description="Eq. 3; null if the policy has none")
    low_share: float | None = Field(None, description="low samples / scored samples; null if there is no threshold")
    kept: int | None = None
    pruned: int | None = None
    prune_requested: int | None = Field(None, description="the number of samples to prune according to the policy")
    never_scored: int | None = None
    classes: list[ClassStats] | None = None
    dropped_samples: int = Field(description="samples that are remembered as dropped by the pipeline")
    groups: list[GroupStats] | None = Field(None, description="the groups of shards; null if the run has none")
    stored_scores: int = Field(description="since the run was created")
    rejected_scores: int = Field(description="NaN and infinite scores since the run was created")
    stale_scores: int = Field(description="scores that were older than the sample's, since the server started")
    barrier_timeouts: int = Field(description="plans that were drawn before every rank had ended the previous epoch")
    unusual_low_classes: int = Field(description="plans whose low class was outside [0.2, 0.95] of the scored samples")
    epochs_ended: int = Field(description="epochs that every rank has ended; the following totals cover these epochs")
    trained_samples: int = Field(description="samples trained, counted once per epoch")
    saved_samples: int = Field(
        description="samples that these epochs didn't train, without those outside the mask, dropped or unreadable"
    )
    saved_share: float | None = Field(None, description="saved_samples / samples without pruning; null before any")


class EpochStats(BaseModel):
    """The plan of one epoch."""

    epoch: int
    kept: int
    pruned: int
    dropped: int = Field(description="left out because the pipeline dropped them")
    threshold: float | None = Field(None, description="null if the plan has none")
    unpruned: bool = Field(description="nothing is pruned in this epoch")


class RunDetails(RunStats):
    """One run, and its plans so far."""

    history: list[EpochStats] = Field(description="by epoch, up to the newest")


class RunList(BaseModel):
    """All runs, sorted by name."""

    runs: list[RunStats]


_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "the server recovers its runs, or stops"}}


class ServerInfo(BaseModel):
    """This server."""

    version: str
    grpc: str = Field(description="the address at which it listens for training jobs, host:port")


def make_app(
    registry: Registry,
    *,
    version: str,
    is_ready: Callable[[], bool],
    listens_at: Address,
    grpc_address: Callable[[], str],
    access: Access,
) -> FastAPI:
    """Builds the FastAPI application.

    Args:
        registry: the runs.
        version: the server's version.
        is_ready: says whether the server answers calls.
        listens_at: the address of HTTP.
        grpc_address: says at which address gRPC listens.
        access: what guards the server.
    """
    app = FastAPI(
        title="infobatch score server",
        version=version,
        description="Pruning statistics of the runs of a score server. Read-only; training uses gRPC.",
    )
    # The one that is added last is asked first.
    if access.tokens is not None:
        app.add_middleware(TokenCheck, tokens=access.tokens)
    certificates = access.certificates
    app.add_middleware(
        HostCheck,
        loopback=listens_at.is_loopback,
        hosts=(listens_at.host, *access.http_hosts),
        certified=lambda: () if certificates is None else certificates.names,
    )

    _add_probes(app, is_ready)

    @app.get("/v1/server", summary="This server.")
    def get_server() -> ServerInfo:
        return ServerInfo(version=version, grpc=grpc_address())

    def check_ready() -> None:
        if not is_ready():
            raise HTTPException(503, "the server recovers its runs, or stops; try again later")

    @app.get("/v1/runs", summary="All runs, sorted by name.", dependencies=[Depends(check_ready)], responses=_NOT_READY)
    def list_runs() -> RunList:
        return RunList(runs=[run_stats(snapshot(run)) for run in registry.runs()])

    @app.get(
        "/v1/runs/{run}",
        summary="One run.",
        dependencies=[Depends(check_ready)],
        responses={404: {"description": "no such run"}, **_NOT_READY},
    )
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


def _add_probes(app: FastAPI, is_ready: Callable[[], bool]) -> None:
    @app.get("/healthz", response_class=PlainTextResponse, summary="The process is alive.")
    def healthz() -> str:
        return "ok\n"

    @app.get(
        "/readyz",
        response_class=PlainTextResponse,
        summary="The server is ready.",
        responses=_NOT_READY,
    )
    def readyz() -> PlainTextResponse:
        ready = is_ready()
        return PlainTextResponse("ready\n" if ready else "not ready\n", 200 if ready else 503)


def run_stats(now: RunSnapshot) -> RunStats:
    """The JSON form of a snapshot."""
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
        dropped_samples=now.dropped_samples,
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
    unchanged = ("plan_id", "epoch", "unpruned", "kept", "pruned", "prune_requested", "never_scored")
    return {
        **{name: getattr(plan, name) for name in unchanged},
        "threshold": _finite(plan.threshold),
        "low_share": _finite(plan.low_share),
        "groups": _group_stats(plan),
        "classes": [ClassStats(name=row.name, size=row.size, kept=row.kept, weight=row.weight) for row in plan.classes],
    }


def _group_stats(plan: PlanSummary) -> list[GroupStats] | None:
    found = []
    for group in plan.groups:
        figures: dict[str, Any] = {name: getattr(group, name) for name in GroupStats.model_fields}
        for name in ("threshold", "low_share", "mean_score"):
            figures[name] = _finite(figures[name])
        found.append(GroupStats(**figures))
    return found or None


def _history(now: RunSnapshot) -> list[EpochStats]:
    return [
        EpochStats(
            epoch=epoch,
            kept=line.kept,
            pruned=line.pruned,
            dropped=line.dropped,
            threshold=_finite(line.threshold),
            unpruned=line.unpruned,
        )
        for epoch, line in now.history
    ]


def _finite(value: float | None) -> float | None:
    """None for NaN and infinities, which JSON doesn't have."""
    return value if value is not None and math.isfinite(value) else None
