"""Many clients that wait for a plan, and one beside them whose scores they wait for."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from infobatch_server.server import ScoreServer
from infobatch_server.state.limits import Limits
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import Caller, caller_on, make_spec, plan_of
from tests.server.jobs import Job

CLIENTS, PUSHES, SCORES = 64, 200, 4096


class Waiting(threading.Thread):
    """A rank that has ended epoch 0 and asks for the plan of epoch 1 as the answers tell it to."""

    def __init__(self, address: str, job: Job, rank: int, plan_id: str, all_wait: threading.Barrier) -> None:
        super().__init__(daemon=True)
        self._address, self._job, self._rank, self._first, self._all_wait = address, job, rank, plan_id, all_wait
        self.got: Any = None

    def run(self) -> None:
        channel, caller = caller_on(self._address)
        try:
            with channel:
                own = Job(caller, self._job.run, self._job.world_size, self._job.generation)
                own.end(0, self._first, self._rank)
                request = pb.GetEpochPlanRequest(run_id=own.run, generation=own.generation, epoch=1)
                asked = 0
                while True:
                    messages = list(caller.stub.GetEpochPlan(request, timeout=30))
                    asked += 1
                    if messages[0].WhichOneof("part") == "header":
                        self.got = plan_of(messages).plan_id
                        return
                    if asked == 1:
                        self._all_wait.wait(60)
                    time.sleep(messages[0].not_ready.retry_after_ms / 1000)
        except Exception as error:
            self.got = error
            self._all_wait.abort()


def test_pushes_go_through_beside_64_waiting_clients_and_none_of_them_hangs(
    server: ScoreServer, caller: Caller
) -> None:
    samples = 100_000
    run = caller.create(make_spec(num_samples=samples)).run_id
    job = Job.attach(caller, run, CLIENTS + 1)
    first = job.plan(0).plan_id
    all_wait = threading.Barrier(CLIENTS + 1)
    clients = [Waiting(str(server.grpc_address), job, rank, first, all_wait) for rank in range(CLIENTS)]
    for client in clients:
        client.start()
    all_wait.wait(60)
    rng = np.random.default_rng(0)
    scores = rng.random(samples).astype(np.float32)
    for _ in range(PUSHES):
        began = time.monotonic()
        assert job.push(0, rng.integers(0, samples, SCORES), scores, rank=CLIENTS).accepted == SCORES
        assert time.monotonic() - began < 10
    assert list(job.not_ready(1).missing_ranks) == [CLIENTS]
    job.end(0, first, rank=CLIENTS)
    for client in clients:
        client.join(60)
    plan_id = job.plan(1).plan_id
    assert [client.got for client in clients] == [plan_id] * CLIENTS


def test_hundreds_of_calls_at_one_moment_are_all_answered(server: ScoreServer, caller: Caller, run: bytes) -> None:
    request = pb.HeartbeatRequest(run_id=run, generation=caller.attach(run))
    with server.registry.by_id(run).core.lock:  # no answer before all requests have arrived
        beats = [caller.stub.Heartbeat.future(request, timeout=30) for _ in range(500)]
        deadline = time.monotonic() + 20
        while server._grpc.num_waiting < 500 - Limits().worker_threads and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [beat.result() for beat in beats] == [pb.HeartbeatResponse()] * 500
