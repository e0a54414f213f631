"""The REST endpoint of a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from infobatch_server.process.address import Address
from infobatch_server.server import ScoreServer
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import Caller, end_request, make_spec, push_request

PLAN_FIELDS = ("plan_id", "epoch", "threshold", "kept", "pruned", "never_scored", "classes", "unpruned")


@pytest.fixture
def server() -> Iterator[ScoreServer]:
    with ScoreServer(http=Address("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def web(server: ScoreServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{server.http_address}", trust_env=False) as client:
        yield client


def test_health_and_readiness(web: httpx.Client, server: ScoreServer) -> None:
    assert web.get("/healthz").status_code == 200
    assert web.get("/readyz").status_code == 200
    server._ready = False
    assert web.get("/readyz").status_code == 503
    assert web.get("/healthz").status_code == 200


def test_before_the_first_plan_its_fields_are_null(web: httpx.Client, caller: Caller) -> None:
    assert web.get("/v1/runs").json() == {"runs": []}
    run = caller.create(make_spec())
    stats = web.get("/v1/runs/test").json()
    assert stats.pop("history") == []
    assert web.get("/v1/runs").json() == {"runs": [stats]}
    assert stats["run_id"] == run.run_id.hex()
    assert (stats["num_samples"], stats["anneal_epoch"], stats["last_epoch"]) == (1000, 8, -1)
    assert [stats[name] for name in (*PLAN_FIELDS, "job", "host", "pid")] == [None] * (len(PLAN_FIELDS) + 3)
    assert (stats["policy"], stats["score_name"], stats["biased"], stats["trained"]) == (
        "infobatch",
        "loss",
        False,
        False,
    )


def test_the_newest_plan_is_shown(web: httpx.Client, caller: Caller) -> None:
    run = caller.create(make_spec()).run_id
    generation = caller.attach(run)
    first = caller.plan(run, generation, 0)
    scores = np.random.default_rng(0).random(1000)
    scores[:3] = np.nan
    caller.push_all(run, generation, 0, 1, scores)
    caller.end(run, generation, 0, first.plan_id)
    plan = caller.plan(run, generation, 1)
    stats = json.loads(web.get("/v1/runs/test").text, parse_constant=pytest.fail)
    assert stats["epoch"] == 1
    assert np.float32(stats["threshold"]) == np.float32(plan.threshold)
    assert stats["kept"] == plan.kept
    assert stats["pruned"] == 1000 - plan.kept
    assert (stats["never_scored"], stats["rejected_scores"], stats["stored_scores"]) == (3, 3, 997)
    assert (stats["job"], stats["host"], stats["pid"], stats["world_size"]) == ("none", "node1", 41, 1)
    assert [entry["name"] for entry in stats["classes"]] == ["kept", "low"]
    assert stats["classes"][1]["weight"] == 2.0
    assert sum(entry["size"] for entry in stats["classes"]) == 1000


def test_a_finished_run_shows_its_savings(web: httpx.Client, caller: Caller) -> None:
    run = caller.create(make_spec(epochs=4, delta="0.75", subset=np.arange(1000) < 900)).run_id
    generation = caller.attach(run)
    plans = []
    for epoch in range(4):
        plans.append(plan := caller.plan(run, generation, epoch))
        caller.push_all(run, generation, epoch, epoch + 1, np.random.default_rng(epoch).random(900))
        caller.stub.EndEpoch(end_request(run, generation, epoch, plan.plan_id, trained=plan.kept))
    stats = json.loads(web.get("/v1/runs/test").text, parse_constant=pytest.fail)
    trained = sum(plan.kept for plan in plans)
    assert (stats["epochs_ended"], stats["trained_samples"], stats["saved_samples"]) == (4, trained, 3600 - trained)
    assert 0 < stats["saved_share"] == (3600 - trained) / 3600
    assert stats["pruned"] == 0, "the last plan is unpruned"
    assert [tuple(line.values()) for line in stats["history"]] == [
        (plan.epoch, plan.kept, plan.pruned, 0, plan.threshold, plan.unpruned) for plan in plans
    ]


def test_dropped_samples_are_counted_and_never_as_saved(web: httpx.Client, caller: Caller) -> None:
    run = caller.create(make_spec(epochs=4)).run_id
    generation = caller.attach(run, remember_drops=True)
    dropped = np.arange(0, 1000, 4)
    scores = np.random.default_rng(0).random(1000)
    for epoch in range(2):
        plan = caller.plan(run, generation, epoch)
        kept = np.setdiff1d(plan.kept_between(0, 1000), dropped)
        push = push_request(run, generation, epoch + 1, epoch, kept, scores[kept])
        push.dropped = dropped.astype("<i8").tobytes()
        caller.stub.PushScores(push)
        end = end_request(run, generation, epoch, plan.plan_id, trained=plan.kept)
        end.counts.CopyFrom(pb.RowCounts(real=len(kept), dropped=plan.kept - len(kept)))
        caller.stub.EndEpoch(end)
    stats = web.get("/v1/runs/test").json()
    assert stats["dropped_samples"] == 250
    assert [line["dropped"] for line in stats["history"]] == [0, 250]
    assert {row["name"]: row["size"] for row in stats["classes"]}["dropped"] == 250
    assert stats["saved_samples"] == plan.pruned == 750 - plan.kept > 0
    assert stats["saved_share"] == plan.pruned / 1500


def test_errors_for_missing_runs_and_paths_are_json(web: httpx.Client) -> None:
    for path in ("/v1/runs/nobody", "/v1/runs/a%2Fb", "/nothing"):
        answer = web.get(path)
        assert answer.status_code == 404
        assert answer.json()["detail"]
    assert "no run 'nobody'" in web.get("/v1/runs/nobody").json()["detail"]


def test_the_endpoint_is_read_only(web: httpx.Client) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert web.request(method, "/v1/runs").status_code == 405


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost:80:80", "", "[::2]:1"])
def test_a_host_that_is_not_loopback_is_refused(web: httpx.Client, host: str) -> None:
    answer = web.get("/v1/runs", headers={"Host": host})
    assert answer.status_code == 400


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "[::1]:9"])
def test_every_loopback_name_is_served(web: httpx.Client, host: str) -> None:
    assert web.get("/v1/runs", headers={"Host": host}).status_code == 200


def test_the_description_names_every_field(web: httpx.Client) -> None:
    schemas = web.get("/openapi.json").json()["components"]["schemas"]
    assert {"threshold", "kept", "never_scored"} <= schemas["RunStats"]["properties"].keys()
