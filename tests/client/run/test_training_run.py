"""A run from one process: columns, row counts, and epochs that fall back to unpruned because no plan came in time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infobatch_client.ranks.place import RankChoice
from infobatch_client.ranks.ranks import Ranks
from infobatch_client.rpc.client import ScoreClient
from infobatch_client.run.joining import Joined
from infobatch_client.run.options import Timeouts
from infobatch_client.run.training_run import TrainingRun
from infobatch_client.run.unpruned_epochs import UnprunedEpochs
from infobatch_client.tie.ticket import Ticket
from infobatch_client.tie.weighting import HostScores
from infobatch_server.server import ScoreServer
from infobatch_stream import Connection, InfoBatchStreamDataset
from infobatch_stream.errors import ConfigError
from infobatch_stream.plan.epoch_plan import EpochPlan, full_plan_id
from infobatch_stream.pruning.policies import InfoBatch
from infobatch_stream.row_counts import RowCounts
from infobatch_stream.scores.table import ColumnSpec
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.e2e.conftest import make_shards
from tests.server.calls import caller_on, make_spec

TIMEOUTS = Timeouts(connect_timeout_s=20, call_timeout_s=1.0, plan_timeout_s=1.5, flush_timeout_s=10)


@pytest.fixture
def server() -> Iterator[ScoreServer]:
    with ScoreServer() as server:
        yield server


@pytest.fixture
def shards(tmp_path: Path) -> str:
    return str(make_shards(tmp_path, [20, 1, 30]))


def open_run(server: ScoreServer, shards: str, ranks: Ranks | None = None) -> TrainingRun:
    dataset = InfoBatchStreamDataset(
        shards, url=str(server.grpc_address), run="one", epochs=4, connection=Connection(timeouts=TIMEOUTS)
    )
    assert dataset.options is not None
    manifest = dataset.indexed.manifest
    return TrainingRun(dataset.options, manifest, ranks=ranks or Ranks(), batch_size=8, state=None)


def ticket_of(index: list[int]) -> Ticket:
    return Ticket(0, 0, np.array(index, np.int64), np.ones(len(index), np.float32))


def test_columns_take_the_policys_dtype_on_their_way(
    server: ScoreServer, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = (ColumnSpec(name="margin", dtype="float32"), ColumnSpec(name="steps", dtype="int32"))
    monkeypatch.setattr(InfoBatch, "columns", columns)
    with closing(open_run(server, shards)) as run:
        run.plans.get(0, "")
        pushed = {"steps": torch.tensor([7, 8, 9]), "margin": torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64)}
        run.push(ticket_of([4, -1, 2]), HostScores(torch.tensor([1.0, 2.0, 3.0]), columns=pushed))
        assert run.flush(10)
        with closing(ScoreClient(str(server.grpc_address))) as client:
            (table,) = client.read_scores(pb.ReadScoresRequest(run="one"))
        assert np.frombuffer(table.scores, "<f4")[[4, 2]].tolist() == [1.0, 3.0]
        stored = {column.name: np.frombuffer(column.data, column.dtype) for column in table.columns}
        assert stored["margin"][[4, 2]].tolist() == [0.5, 0.125]
        assert stored["steps"][[4, 2]].tolist() == [7, 9]
        assert np.count_nonzero(stored["steps"]) == 2
        with pytest.raises(ConfigError, match=r"columns \[\] were passed, and the run's policy needs"):
            run.push(ticket_of([1]), HostScores(torch.ones(1)))


def test_the_row_counts_of_an_epoch_reach_the_server(server: ScoreServer, shards: str) -> None:
    counts = RowCounts(real=5, filled=4, dropped=3, unreadable=2)
    with closing(open_run(server, shards)) as run:
        plan, _ = run.plans.get(0, "")
        run.push(ticket_of([4, 2]), HostScores(torch.tensor([1.0, float("nan")])))
        run.end_epoch(plan, start=0, end=14, counts=counts)
        assert run.flush(10)
        (mark,) = server.registry.runs()[0].core.barrier.marks(0)
    assert mark.counts == counts._replace(non_finite=1)
    assert (mark.plan_id, mark.start_position, mark.end_position) == (plan.plan_id, 0, 14)


class Meeting:
    """Two ranks in two threads, that exchange texts as processes do."""

    def __init__(self) -> None:
        self._words = ["", ""]
        self._barrier = threading.Barrier(2, timeout=60)

    def ranks(self, rank: int) -> Ranks:
        def agree(word: str) -> list[str]:
            self._words[rank] = word
            self._barrier.wait()
            words = list(self._words)
            self._barrier.wait()
            return words

        return Ranks(RankChoice(rank=rank, world_size=2, agree=agree))


def together(act: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(act, rank) for rank in range(2)]]


def test_a_plan_that_is_not_ready_in_time_is_an_unpruned_epoch(
    server: ScoreServer, shards: str, caplog: pytest.LogCaptureFixture
) -> None:
    meeting = Meeting()
    runs: list[TrainingRun] = together(lambda rank: open_run(server, shards, meeting.ranks(rank)))

    def plan(epoch: int) -> list[EpochPlan]:
        return together(lambda rank: runs[rank].plans.get(epoch, "")[0])

    first = plan(0)[0]
    runs[0].end_epoch(first, start=0, end=51, counts=RowCounts(real=51))
    fallback = plan(1)
    expected = full_plan_id(runs[0].joined.run_id, 1)
    assert [got.plan_id for got in fallback] == [expected] * 2
    assert [got.kept for got in fallback] == [51] * 2
    assert "ranks [1] have not ended the epoch before" in caplog.text
    assert "epoch 1 is trained unpruned" in caplog.text
    assert all(run.flush(10) for run in runs)
    assert set(server.registry.runs()[0].core.state.unpruned) == {1}
    together(lambda rank: runs[rank].close())


def test_a_replica_that_does_not_push_repeats_the_marks_itself(server: ScoreServer) -> None:
    channel, caller = caller_on(str(server.grpc_address))
    spec = make_spec("replica")
    run_id = caller.create(spec).run_id
    joined = Joined(
        address=str(server.grpc_address),
        run_id=run_id,
        spec=spec,
        generation=caller.attach(run_id),
        heartbeat_interval_s=5,
    )
    with channel, closing(ScoreClient(joined.address)) as client:
        unpruned = UnprunedEpochs(client, joined, None)
        unpruned.add(0)
        assert not server.registry.by_id(run_id).core.state.unpruned
        for _ in range(2):
            unpruned.repeat_marks()
            assert set(server.registry.by_id(run_id).core.state.unpruned) == {0}
        served = caller.plan(run_id, joined.generation, 0)
    own = unpruned.plan(0)
    assert unpruned.is_plan_of(0, served.plan_id)
    assert not unpruned.is_plan_of(1, served.plan_id)
    assert own.plan_id == served.plan_id
    np.testing.assert_array_equal(own.keep_bits, served.keep_bits)
