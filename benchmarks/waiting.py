"""Measures the latency of pushes while other clients wait for a plan: first without waiting clients, then with many.

The waiting clients run in child processes, with a channel each, and repeat their request when the answer says so. One
more client pushes, one message at a time, and ends the epoch last. All clients must then get the same plan.

    python benchmarks/waiting.py --clients 64 --pushes 200
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from infobatch_stream.plan.order_params import OrderChoice, OrderParams
from infobatch_stream.pruning.policies import make_policy
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1 import score_service_pb2_grpc as pb_grpc
from infobatch_stream.wire.specs import spec_message, spec_parts

CALL_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Job:
    """An attached job."""

    address: str
    run_id: bytes
    generation: int
    plan_id: str  # of epoch 0

    def stub(self) -> tuple[grpc.Channel, Any]:
        """A new channel and a stub on it."""
        channel = grpc.insecure_channel(self.address, [("grpc.enable_http_proxy", 0)])
        return channel, pb_grpc.ScoreServiceStub(channel)

    def end(self, stub: Any, rank: int) -> None:
        """Ends epoch 0 on a rank."""
        stub.EndEpoch(
            pb.EndEpochRequest(
                run_id=self.run_id,
                generation=self.generation,
                epoch=0,
                rank=rank,
                plan_id=self.plan_id,
                end_position=1,
            ),
            timeout=CALL_TIMEOUT_S,
        )


@dataclass
class Wait:
    """The results of one waiting client."""

    polls: int = 0
    plan_id: str = ""
    error: str = ""


def wait_for_plan(job: Job, rank: int, waiting: threading.Semaphore, wait: Wait) -> None:
    """Ends epoch 0, then requests the plan of epoch 1, at the intervals that the server sets, until it is ready."""
    channel, stub = job.stub()
    try:
        with channel:
            job.end(stub, rank)
            request = pb.GetEpochPlanRequest(run_id=job.run_id, generation=job.generation, epoch=1)
            while not wait.plan_id:
                wait.polls += 1
                messages = list(stub.GetEpochPlan(request, timeout=CALL_TIMEOUT_S))
                if wait.polls == 1:
                    waiting.release()
                if messages[0].WhichOneof("part") == "header":
                    wait.plan_id = messages[0].header.plan_id
                else:
                    time.sleep(messages[0].not_ready.retry_after_ms / 1000)
    except grpc.RpcError as error:
        wait.error = f"{error.code().name}: {error.details()}"  # type: ignore[attr-defined]
        waiting.release()


def wait_in_threads(pipe: Connection, job: Job, ranks: range) -> None:
    """A process of waiting clients: reports when all of them wait, and then their results."""
    waiting, waits = threading.Semaphore(0), [Wait() for _ in ranks]
    threads = [
        threading.Thread(target=wait_for_plan, args=(job, rank, waiting, wait), daemon=True)
        for rank, wait in zip(ranks, waits, strict=True)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        waiting.acquire()
    pipe.send("all wait")
    for thread in threads:
        thread.join()
    pipe.send(waits)


def attached_job(address: str, run: str, args: argparse.Namespace, world_size: int) -> Job:
    """Creates a run, attaches a job, and opens epoch 0."""
    spec = RunSpec(
        run=run,
        manifest_fingerprint=bytes(32),
        shard_sizes=np.full(100, args.samples // 100, np.int64),
        epochs=10,
        seed=0,
        policy=make_policy("infobatch"),
        order=OrderParams(lanes=1, stripe=256, window_shards=100),
    )
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        stub: Any = pb_grpc.ScoreServiceStub(channel)
        first = pb.CreateRunRequest(spec=spec_message(spec, OrderChoice()))
        run_id = stub.CreateRun(iter([first, *spec_parts(spec)])).run_id
        request = pb.AttachRunRequest(
            run_id=run_id,
            job="benchmark",
            nonce=os.urandom(16),
            host="localhost",
            pid=os.getpid(),
            world_size=world_size,
            resume=pb.Resume(new=pb.Resume.New()),
        )
        generation = stub.AttachRun(request).generation
        plan = stub.GetEpochPlan(pb.GetEpochPlanRequest(run_id=run_id, generation=generation, epoch=0))
        plan_id = next(iter(plan)).header.plan_id
        plan.cancel()
    return Job(address, run_id, generation, plan_id)


def push_all(job: Job, args: argparse.Namespace) -> list[float]:
    """Sends all pushes, one at a time; returns their latencies in seconds."""
    rng, client_id, latencies_s = np.random.default_rng(0), os.urandom(16), []
    channel, stub = job.stub()
    with channel:
        stub.GetServer(pb.GetServerRequest(), timeout=CALL_TIMEOUT_S)  # connects, so that no push includes it
        for sequence in range(1, args.pushes + 1):
            request = pb.PushScoresRequest(
                run_id=job.run_id,
                generation=job.generation,
                client_id=client_id,
                sequence=sequence,
                epoch=0,
                indices=rng.integers(0, args.samples, args.scores).astype("<i8").tobytes(),
                scores=rng.random(args.scores, np.float32).tobytes(),
            )
            start_s = time.perf_counter()
            stub.PushScores(request, timeout=CALL_TIMEOUT_S)
            latencies_s.append(time.perf_counter() - start_s)
            time.sleep(args.pause_s)
    return latencies_s


def measure(address: str, args: argparse.Namespace) -> dict[str, Any]:
    """The latencies without and with waiting clients."""
    alone = push_all(attached_job(address, "alone", args, 1), args)
    job = attached_job(address, "waiting", args, args.clients + 1)
    spawn = multiprocessing.get_context("spawn")
    share = -(-args.clients // args.processes)
    pipes, processes = [], []
    for first in range(0, args.clients, share):
        ours, theirs = spawn.Pipe()
        ranks = range(first, min(first + share, args.clients))
        processes.append(spawn.Process(target=wait_in_threads, args=(theirs, job, ranks)))
        pipes.append(ours)
        processes[-1].start()
    for pipe in pipes:
        pipe.recv()
    start_s = time.perf_counter()
    beside = push_all(job, args)
    pushing_s = time.perf_counter() - start_s
    channel, stub = job.stub()
    with channel:
        job.end(stub, args.clients)
        start_s = time.perf_counter()
        waits = [wait for pipe in pipes for wait in pipe.recv()]
        until_all_have_it_s = time.perf_counter() - start_s
    for process in processes:
        process.join()
    errors = sorted({wait.error for wait in waits if wait.error})
    assert not errors, errors
    assert len({wait.plan_id for wait in waits}) == 1, "all clients must get the same plan"
    return {
        "clients": args.clients,
        "pushes": args.pushes,
        "scores_per_push": args.scores,
        "alone": _spread(alone),
        "beside": _spread(beside),
        "polls_per_s": sum(wait.polls for wait in waits) / pushing_s,
        "until_all_have_the_plan_s": until_all_have_it_s,
    }


def _spread(latencies_s: list[float]) -> dict[str, float]:
    percentiles = statistics.quantiles(latencies_s, n=100, method="inclusive")
    return {"p50_ms": 1000 * percentiles[49], "p99_ms": 1000 * percentiles[98], "max_ms": 1000 * max(latencies_s)}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64, help="number of waiting clients")
    parser.add_argument("--processes", type=int, default=4, help="processes that the waiting clients share")
    parser.add_argument("--pushes", type=int, default=200, help="pushes of the pushing client")
    parser.add_argument("--scores", type=int, default=4096, help="scores per push")
    parser.add_argument("--pause-s", type=float, default=0.02, help="pause after each push, in seconds")
    parser.add_argument("--samples", type=int, default=1_000_000, help="samples of the run, a multiple of 100")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    if min(args.clients, args.processes, args.pushes - 1, args.scores) < 1 or args.samples % 100:
        parser.error(
            "--clients, --processes and --scores must be at least 1, --pushes at least 2, --samples a multiple of 100"
        )
    with tempfile.TemporaryDirectory() as folder:
        endpoint = Path(folder) / "endpoint.json"
        command = [sys.executable, "-m", "infobatch_stream", "serve", "--data-dir", f"{folder}/data"]
        command += ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--endpoint-file", str(endpoint)]
        with open(f"{folder}/log", "wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            while not endpoint.exists():
                if server.poll() is not None:
                    sys.exit(Path(f"{folder}/log").read_text())
                time.sleep(0.05)
            result = measure(json.loads(endpoint.read_text())["grpc"], args)
        finally:
            server.terminate()
            server.wait()
    if args.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'pushes, in ms':<28}{'p50':>8}{'p99':>8}{'max':>8}")
    for name, words in (("alone", "no client waits"), ("beside", f"{args.clients} clients wait")):
        print(f"{words:<28}" + "".join(f"{result[name][column]:>8.1f}" for column in ("p50_ms", "p99_ms", "max_ms")))
    print(f"the waiting clients sent {result['polls_per_s']:.0f} requests per second")
    print(f"all clients had the plan {result['until_all_have_the_plan_s']:.2f} s after the last rank ended the epoch")


if __name__ == "__main__":
    main()
