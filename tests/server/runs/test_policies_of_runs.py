"""A run under its policy: when a scheduled epoch waits for ranks, which columns are pushed, and how they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infobatch_server.runs.barrier import NotReady
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.policy_distribution import unpack_policy
from tests.server.bare_runs import attach, end, make_run, plan
from tests.server.calls import INVALID, Caller, create_messages, make_spec, push_request, status
from tests.server.conftest import Clock

WITH_COLUMNS = """
from dataclasses import dataclass
from typing import ClassVar
from infobatch_stream.pruning.policies import KEPT, Classification, ColumnSpec, Policy, one_class

@dataclass(frozen=True, kw_only=True)
class Mine(Policy):
    name: ClassVar[str] = "with_columns"
    columns: ClassVar[tuple[ColumnSpec, ...]] = (
        ColumnSpec(name="margin", dtype="float64", fold="previous"),
        ColumnSpec(name="hits", dtype="uint8", fold="streak", condition=">= 0.5"),
        ColumnSpec(name="before", fold="previous", source="score"),
    )

    def classes(self, view, position):
        return Classification(codes=one_class, rows=(KEPT,))
"""


def test_an_epoch_whose_share_is_0_waits_for_no_rank(clock: Clock) -> None:
    run = make_run(clock, make_spec(epochs=10, prune_schedule=[(0, 0), (0.2, 0), (0.2, 0.5)]))
    generation = attach(run, world_size=2)
    first = plan(run, generation, 0)
    assert end(run, generation, 0, first.plan_id) == (1,)
    assert plan(run, generation, 1).unpruned
    answer = run.plans.get(generation, 2)
    assert isinstance(answer, NotReady)
    assert answer.missing_ranks == (0, 1)


@pytest.fixture
def columns_run(caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A run under a policy with two pushed columns and one of the score."""
    unpack_policy(tmp_path / "installed", "dist_with_columns", WITH_COLUMNS, {"with_columns": "Mine"})
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    return bytes(caller.create(make_spec(policy="with_columns", num_samples=20)).run_id)


def push(run: bytes, generation: int, sequence: int, score: float, **columns: np.ndarray) -> pb.PushScoresRequest:
    request = push_request(run, generation, sequence, 0, [3], [score])
    for name, values in columns.items():
        request.columns.add(name=name, dtype=values.dtype.name, data=values.tobytes())
    return request


def test_pushed_columns_and_those_of_the_score_are_folded_and_read_back(caller: Caller, columns_run: bytes) -> None:
    generation = caller.attach(columns_run)
    caller.plan(columns_run, generation, 0)
    for sequence, (score, margin, hit) in enumerate([(5, 0.5, 0), (4, 0.25, 1), (3, 0.125, 1)], 1):
        values = {"margin": np.array([margin], "<f8"), "hits": np.array([hit], "<f4")}
        assert caller.stub.PushScores(push(columns_run, generation, sequence, score, **values)).accepted == 1
    [part] = caller.stub.ReadScores(pb.ReadScoresRequest(run_id=columns_run, first_sample=3, end_sample=4))
    read = {column.name: np.frombuffer(column.data, column.dtype).tolist() for column in part.columns}
    assert read == {"margin": [0.25], "margin.last": [0.125], "hits": [2], "before": [4]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"margin": "<f8"}, "columns ['margin'] were pushed, the run's policy declares ['margin', 'hits']"),
        ({"margin": "<f8", "hits": "<f4", "before": "<f4"}, "declares ['margin', 'hits']"),
        ({"margin": "<f8", "hits": "|u1"}, "column hits: dtype 'uint8', the run has 'float32'"),
    ],
)
def test_other_columns_than_the_pushed_ones_are_refused(
    columns: dict[str, str], message: str, caller: Caller, columns_run: bytes
) -> None:
    generation = caller.attach(columns_run)
    caller.plan(columns_run, generation, 0)
    values = {name: np.ones(1, dtype) for name, dtype in columns.items()}
    with status(INVALID, message):
        caller.stub.PushScores(push(columns_run, generation, 1, 1.0, **values))


def test_a_run_of_a_policy_that_the_server_lacks_says_where_to_install_it(caller: Caller) -> None:
    messages = create_messages(make_spec())
    messages[0].spec.policy.name = "elsewhere"
    with status(INVALID, "must be installed where the score server runs"):
        caller.stub.CreateRun(iter(messages), timeout=10)
