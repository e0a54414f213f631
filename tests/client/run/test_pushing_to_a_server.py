"""What arrives at a real server: columns at their samples, and the number of rejected scores with the epoch's end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from infobatch_client.rpc.client import ScoreClient
from infobatch_client.run.score_pusher import ScorePusher
from infobatch_server.server import ScoreServer
from infobatch_stream.errors import ServerUnreachableError
from infobatch_stream.pruning.policies import Random
from infobatch_stream.scores.table import ColumnSpec
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import Caller, caller_on, end_request, make_spec

COLUMNS = (ColumnSpec(name="hits", dtype="uint16"), ColumnSpec(name="margin", dtype="float32"))


class LossyClient(ScoreClient):
    """Calls a real server; loses the first `requests` on the way there, and the next `answers` on the way back."""

    requests = 0
    answers = 0

    def _unary(self, choose: Any, request: Any, timeout_s: float | None) -> Any:
        if self.requests:
            self.requests -= 1
            raise ServerUnreachableError("the request is lost")
        answer = super()._unary(choose, request, timeout_s)
        if self.answers:
            self.answers -= 1
            raise ServerUnreachableError("the answer is lost")
        return answer


class Job:
    """A run with an open epoch 0, and a pusher on it."""

    def __init__(self, server: ScoreServer, caller: Caller) -> None:
        self.server, self.caller = server, caller
        spec = make_spec("pushing", policy="random")
        self.columns = {column.name: column.dtype for column in spec.policy.columns}
        self.run_id = caller.create(spec).run_id
        self.generation = caller.attach(self.run_id)
        self.plan = caller.plan(self.run_id, self.generation, 0)
        self.client = LossyClient(str(server.grpc_address))
        self.pusher = ScorePusher(
            self.client,
            run_id=self.run_id,
            generation=self.generation,
            heartbeat_interval_s=1000,
            columns=self.columns,
        ).start()

    def put(self, index: list[int], scores: list[float]) -> None:
        """Scores with a margin of a half more, and as many hits."""
        values = torch.tensor(scores, dtype=torch.float32)
        columns = {"margin": values + 0.5, "hits": values.nan_to_num(7, 7).to(torch.uint16)} if self.columns else {}
        self.pusher.put_scores(0, np.array(index, np.int64), values, columns=columns)

    def end_epoch(self, epoch: int = 0) -> None:
        self.pusher.put_message(end_request(self.run_id, self.generation, epoch, self.plan.plan_id))

    def stored(self, name: str) -> np.ndarray:
        """A column of the whole table, or the scores."""
        answers = list(self.client.read_scores(pb.ReadScoresRequest(run_id=self.run_id)))
        if name == "scores":
            return np.frombuffer(b"".join(answer.scores for answer in answers), "<f4")
        parts = [column for answer in answers for column in answer.columns if column.name == name]
        return np.frombuffer(b"".join(part.data for part in parts), parts[0].dtype)

    def counts(self, epoch: int = 0) -> pb.RowCounts:
        """The row counts of the epoch's one mark, as the server keeps them."""
        (mark,) = self.server.registry.by_id(self.run_id).core.barrier.marks(epoch)
        return pb.RowCounts(**mark.counts._asdict())


@contextmanager
def job_on_a_server() -> Iterator[Job]:
    with ScoreServer() as server:
        channel, caller = caller_on(str(server.grpc_address))
        job = Job(server, caller)
        try:
            yield job
        finally:
            job.pusher.close(1)
            job.client.close()
            channel.close()


@pytest.fixture
def job() -> Iterator[Job]:
    with job_on_a_server() as job:
        yield job


@pytest.fixture
def columns_job(monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """A job whose policy declares two columns."""
    monkeypatch.setattr(Random, "columns", COLUMNS)
    with job_on_a_server() as job:
        yield job


def fine(client: LossyClient) -> None:
    """Nothing is lost."""


def an_outage(client: LossyClient) -> None:
    client.requests = 3


def lost_answers(client: LossyClient) -> None:
    client.requests, client.answers = 1, 2


NETWORKS = pytest.mark.parametrize("network", [fine, an_outage, lost_answers])


@NETWORKS
def test_columns_arrive_at_their_samples(columns_job: Job, network: Callable[[LossyClient], None]) -> None:
    job = columns_job
    network(job.client)
    job.put([5, 3, -1, 900], [1.0, 2.0, 50.0, 4.0])
    job.put([3, 3, 7], [8.0, 9.0, 6.0])
    assert job.pusher.flush(20)
    job.put([7], [11.0])
    assert job.pusher.flush(20)
    expected = {5: 1.0, 3: 9.0, 900: 4.0, 7: 11.0}
    touched = np.flatnonzero(~np.isnan(job.stored("scores")))
    assert touched.tolist() == sorted(expected)
    assert job.stored("scores")[touched].tolist() == [expected[sample] for sample in touched.tolist()]
    assert job.stored("margin")[touched].tolist() == [expected[sample] + 0.5 for sample in touched.tolist()]
    assert job.stored("hits")[touched].tolist() == [int(expected[sample]) for sample in touched.tolist()]
    assert np.count_nonzero(job.stored("hits")) == len(expected)
    assert job.pusher.counts.lost == 0
    assert (job.pusher.counts.retries > 0) == (network is not fine)


@NETWORKS
def test_an_epochs_end_counts_the_scores_that_were_rejected(job: Job, network: Callable[[LossyClient], None]) -> None:
    network(job.client)
    job.put([1, 2, 3, -1], [1.0, float("nan"), float("inf"), float("nan")])
    job.put([4, 5], [float("-inf"), 2.0])
    job.end_epoch()
    assert job.pusher.flush(20)
    assert job.counts() == pb.RowCounts(real=10, non_finite=3)
    assert job.pusher.counts.rejected == 3


def test_rejected_scores_belong_to_one_opening_of_the_epoch(job: Job) -> None:
    job.put([1], [float("nan")])
    job.end_epoch()
    job.put([2, 3], [float("nan"), float("nan")])
    job.end_epoch()
    assert job.pusher.flush(20)
    assert job.counts() == pb.RowCounts(real=10, non_finite=2)


def test_an_epochs_end_without_rejected_scores_has_the_bytes_that_were_put(job: Job) -> None:
    message = end_request(job.run_id, job.generation, 0, job.plan.plan_id)
    message.ClearField("counts")
    before = message.SerializeToString()
    job.put([1], [1.0])
    job.pusher.put_message(message)
    assert job.pusher.flush(20)
    assert message.SerializeToString() == before
