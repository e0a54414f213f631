"""Random requests to every path of REST: each answer is one that the API's own description has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infobatch_server.process.address import Address
from infobatch_server.server import ScoreServer
from tests.server.calls import caller_on, make_spec


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    """The description of a server with a run, which has scores and two plans."""
    with ScoreServer(http=Address("127.0.0.1", 0)) as server:
        channel, caller = caller_on(str(server.grpc_address))
        with channel:
            spec = make_spec()
            run = caller.create(spec).run_id
            generation = caller.attach(run)
            first = caller.plan(run, generation, 0)
            caller.push_all(run, generation, 0, 1, np.linspace(0, 1, spec.num_samples, dtype=np.float32))
            caller.end(run, generation, 0, first.plan_id)
            caller.plan(run, generation, 1)
        yield schemathesis.openapi.from_url(f"http://{server.http_address}/openapi.json")


def check(api: Any, examples: int) -> dict[str, set[int]]:
    """The statuses of random requests, by path; fails for an error of the server's, or for what isn't described."""
    statuses: dict[str, set[int]] = {}
    for found in api.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(), known=st.booleans())
        def request(case: Any, known: bool) -> None:
            if known and "run" in (case.path_parameters or {}):
                case.path_parameters["run"] = "test"
            answer = case.call_and_validate()
            statuses.setdefault(case.operation.path, set()).add(answer.status_code)

        request()
    return statuses


def test_every_answer_is_described(api: Any) -> None:
    statuses = check(api, 25)
    assert statuses["/v1/runs/{run}"] >= {200, 404}
    assert {"/healthz", "/readyz", "/v1/runs", "/v1/server"} <= statuses.keys()


@pytest.mark.long
def test_every_answer_to_many_requests_is_described(api: Any) -> None:
    check(api, 2000)
