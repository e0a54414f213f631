"""What open streams hold is charged to the server's memory until they end, whichever way."""

from __future__ import annotations

import itertools
import queue
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from infobatch_server.runs.memory import MemoryBudget, plan_bytes, run_bytes
from infobatch_server.server import ScoreServer
from infobatch_server.state.limits import Limits
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.spec_reader import read_spec
from tests.server.calls import INVALID, Caller, caller_on, create_messages, end_request, make_spec, status

BUSY = grpc.StatusCode.RESOURCE_EXHAUSTED
UPLOAD = 1_000_000 + 240  # ten times the bytes of the mask, three times those of ten sizes


@contextmanager
def serving(**limits: Any) -> Iterator[tuple[ScoreServer, Caller]]:
    with ScoreServer(limits=Limits(**limits)) as server:
        channel, caller = caller_on(str(server.grpc_address))
        with channel:
            yield server, caller


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def masked(name: str) -> RunSpec:
    return make_spec(name, num_samples=800_000, subset=np.arange(800_000) % 2 > 0)


def without_end(messages: Iterable[Any]) -> Iterator[Any]:
    return itertools.chain(messages, iter(queue.Queue[Any]().get, None))


def test_uploads_of_several_runs_at_once_are_charged_as_they_come() -> None:
    with serving(memory_bytes=2_500_000) as (server, caller):
        memory = server.registry.memory
        held = [caller.stub.CreateRun.future(without_end(create_messages(masked(name)))) for name in "ab"]
        wait_for(lambda: memory.used == 2 * UPLOAD)
        refused = "a further part of the spec of run 'c' takes 1,000,000 bytes, but 2,000,720 of 2,500,000 are in use"
        with status(BUSY, refused, "ServerBusyError"):
            caller.create(masked("c"))
        assert memory.used == 2 * UPLOAD
        for call in held:
            call.cancel()
        wait_for(lambda: memory.used == 0)


def test_an_upload_that_is_refused_or_cut_short_leaves_no_charge() -> None:
    with serving(memory_bytes=10**9) as (server, caller):
        messages = create_messages(masked("a"))
        with status(INVALID, "0 bytes of mask came"):
            caller.stub.CreateRun(iter(messages[:-1]), timeout=10)
        with status(INVALID, "mask from sample 0 came where 800000 is next"):
            caller.stub.CreateRun(iter([*messages, messages[-1]]), timeout=10)
        wait_for(lambda: server.registry.memory.used == 0)


def test_a_job_joins_its_run_on_a_server_that_is_full() -> None:
    with serving(memory_bytes=10**9) as (server, caller):
        memory = server.registry.memory
        assert caller.create(masked("a")).created
        assert memory.used == sum(run_bytes(masked("a"), Limits().keep_plans).values())
        memory.add(10**9 - memory.used)
        assert not caller.create(masked("a")).created
        assert memory.used == 10**9
        held = caller.stub.CreateRun.future(without_end(create_messages(masked("a"))[:1]))
        wait_for(lambda: "a" in server.registry._joined)
        with status(BUSY, "a further part of the spec of run 'a'"):
            caller.create(masked("a"))
        held.cancel()
        wait_for(lambda: "a" not in server.registry._joined)
        assert not caller.create(masked("a")).created


def test_plans_and_runs_that_are_gone_are_charged_until_their_last_stream_ends() -> None:
    with serving(keep_plans=1) as (server, caller):
        memory = server.registry.memory
        spec = make_spec(num_samples=2**23, num_shards=3, policy="levels", levels="0.2:0.75,0.85:0.5")
        run = caller.create(spec).run_id
        weight, plan_weight = memory.used, plan_bytes(2**23, 3)
        generation = caller.attach(run)

        def unread(epoch: int) -> Any:
            call = caller.stub.GetEpochPlan(pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=epoch))
            assert next(call).WhichOneof("part") == "header"
            return call

        streams = [unread(0), unread(0)]
        assert memory.used == weight
        caller.stub.EndEpoch(end_request(run, generation, 0, caller.plan(run, generation, 0).plan_id))
        newest = unread(1)
        assert memory.used == weight + plan_weight
        streams[0].cancel()
        wait_for(lambda: sum(server.registry.by_id(run).core.streams._open.values()) == 2)
        assert memory.used == weight + plan_weight
        streams[1].cancel()
        wait_for(lambda: memory.used == weight)
        caller.stub.DeleteRun(pb.DeleteRunRequest(run_id=run, force=True))
        assert memory.used == weight
        newest.cancel()
        wait_for(lambda: memory.used == 0)


def test_a_deleted_runs_table_is_charged_until_its_last_reader_ends() -> None:
    with serving() as (server, caller):
        memory = server.registry.memory
        run = caller.create(make_spec(num_samples=2**22)).run_id
        weight = memory.used
        reader = caller.stub.ReadScores(pb.ReadScoresRequest(run_id=run))
        next(reader)
        importer = caller.stub.SeedRun.future(without_end([pb.SeedRunRequest(run_id=run)]))
        streams = server.registry.by_id(run).core.streams
        wait_for(lambda: streams._open[""] == 2)
        caller.stub.DeleteRun(pb.DeleteRunRequest(run_id=run))
        assert memory.used == weight
        reader.cancel()
        wait_for(lambda: streams._open[""] == 1)
        assert memory.used == weight
        importer.cancel()
        wait_for(lambda: memory.used == 0)


@pytest.mark.parametrize(
    "spec",
    [masked("masked"), make_spec(num_samples=800_000, num_shards=400_000, groups=5)],
    ids=["mask", "shards with groups"],
)
def test_an_upload_takes_no_more_than_it_is_charged(spec: RunSpec) -> None:
    memory = MemoryBudget(10**9)
    messages = create_messages(spec)
    with memory.upload("the spec") as upload:
        tracemalloc.start()
        read_spec(iter(messages), account_for=lambda _: upload.add)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        charged = memory.used
        assert charged == run_bytes(spec, 8)["an upload"]
    assert peak <= charged + 200_000
    assert memory.used == 0
