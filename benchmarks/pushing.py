"""Measures scores per second through PushScores, compared with a bare echo of the same messages.

The echo has the same thread pool, channel arguments and messages, but stores nothing. Both servers run in one child
process; the measurements alternate within one run, and the table shows medians.

    python benchmarks/pushing.py --messages 1000 --repeats 7
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from infobatch_server.rpc.server import server_options
from infobatch_server.server import ScoreServer
from infobatch_server.state.limits import Limits
from infobatch_server.store.durable import DurableStore
from infobatch_server.store.memory import MemoryStore
from infobatch_stream.plan.order_params import OrderChoice, OrderParams
from infobatch_stream.pruning.policies import make_policy
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1 import score_service_pb2_grpc as pb_grpc
from infobatch_stream.wire.specs import spec_message, spec_parts

ECHO = "/benchmark.Echo/Push"


def serve(pipe: Connection, folder: str) -> None:
    """Runs both servers until a message arrives from the pipe; scores are kept under `folder`, or in memory for ""."""
    limits = Limits()
    answer = pb.PushScoresResponse()
    handler = grpc.unary_unary_rpc_method_handler(
        lambda _request, _context: answer,
        request_deserializer=pb.PushScoresRequest.FromString,
        response_serializer=pb.PushScoresResponse.SerializeToString,
    )
    echo = grpc.server(
        ThreadPoolExecutor(limits.worker_threads),
        options=server_options(limits),
        maximum_concurrent_rpcs=limits.worker_threads + limits.max_queued_calls,
    )
    echo.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmark.Echo", {"Push": handler}),))
    port = echo.add_insecure_port("127.0.0.1:0")
    echo.start()
    with tempfile.TemporaryDirectory(dir=folder or None) as data_dir:
        store = DurableStore(Path(data_dir)) if folder else MemoryStore()
        with ScoreServer(limits=limits, store=store) as server:
            pipe.send((str(server.grpc_address), f"127.0.0.1:{port}"))
            pipe.recv()
    echo.stop(0).wait()


def attached_run(stub: Any, num_samples: int) -> tuple[bytes, int]:
    """Creates a run and attaches a job; returns the run's id and the generation."""
    spec = RunSpec(
        run="pushing",
        manifest_fingerprint=bytes(32),
        shard_sizes=np.full(100, num_samples // 100, np.int64),
        epochs=100,
        seed=0,
        policy=make_policy("infobatch"),
        order=OrderParams(lanes=1, stripe=256, window_shards=100),
    )
    first = pb.CreateRunRequest(spec=spec_message(spec, OrderChoice()))
    run_id = stub.CreateRun(iter([first, *spec_parts(spec)])).run_id
    answer = stub.AttachRun(
        pb.AttachRunRequest(
            run_id=run_id,
            job="benchmark",
            nonce=os.urandom(16),
            host="localhost",
            pid=os.getpid(),
            world_size=1,
            resume=pb.Resume(new=pb.Resume.New()),
        )
    )
    return run_id, answer.generation


def make_messages(run_id: bytes, generation: int, args: argparse.Namespace) -> list[pb.PushScoresRequest]:
    """The pushes of one epoch, with samples in random order."""
    rng = np.random.default_rng(0)
    order = rng.permutation(args.samples)
    scores = rng.random(args.scores, np.float32).tobytes()
    messages = []
    for number in range(args.messages):
        start = number * args.scores % (args.samples - args.scores)
        indices = order[start : start + args.scores].astype("<i8").tobytes()
        messages.append(pb.PushScoresRequest(run_id=run_id, generation=generation, indices=indices, scores=scores))
    return messages


def send_all(call: Any, messages: list[pb.PushScoresRequest], in_flight: int) -> float:
    """Sends every message once, each `in_flight` ahead of the oldest one unanswered; returns scores per second."""
    futures: deque[Any] = deque()
    start_s = time.perf_counter()
    for message in messages:
        if len(futures) == in_flight:
            futures.popleft().result()
        futures.append(call.future(message))
    for future in futures:
        future.result()
    elapsed_s = time.perf_counter() - start_s
    return sum(len(message.scores) // 4 for message in messages) / elapsed_s


def measure(args: argparse.Namespace, push_address: str, echo_address: str) -> dict[str, Any]:
    """The medians of both, and the median ratio of consecutive measurements."""
    options = [("grpc.enable_http_proxy", 0)]
    pushes, echoes = [], []
    with (
        grpc.insecure_channel(push_address, options) as push_channel,
        grpc.insecure_channel(echo_address, options) as echo_channel,
    ):
        stub = pb_grpc.ScoreServiceStub(push_channel)
        echo = echo_channel.unary_unary(
            ECHO,
            request_serializer=pb.PushScoresRequest.SerializeToString,
            response_deserializer=pb.PushScoresResponse.FromString,
        )
        run_id, generation = attached_run(stub, args.samples)
        messages = make_messages(run_id, generation, args)
        for repeat in range(args.repeats + 1):  # the first one warms up
            client_id = os.urandom(16)
            # This opens the epoch: the server refuses scores of epochs that were not opened.
            stub.MarkUnpruned(pb.MarkUnprunedRequest(run_id=run_id, generation=generation, epoch=repeat))
            for sequence, message in enumerate(messages, start=1):
                message.client_id, message.sequence, message.epoch = client_id, sequence, repeat
            echoes.append(send_all(echo, messages, args.in_flight))
            pushes.append(send_all(stub.PushScores, messages, args.in_flight))
        stored = stub.GetRun(pb.GetRunRequest(run="pushing")).run.stored_scores
    assert stored == (args.repeats + 1) * args.messages * args.scores, "every push was stored once"
    ratios = [push / echo for push, echo in zip(pushes[1:], echoes[1:], strict=True)]
    return {
        "scores_per_message": args.scores,
        "messages": args.messages,
        "repeats": args.repeats,
        "in_flight": args.in_flight,
        "echo_scores_per_s": statistics.median(echoes[1:]),
        "push_scores_per_s": statistics.median(pushes[1:]),
        "push_over_echo": statistics.median(ratios),
    }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=int, default=4096, help="per message")
    parser.add_argument("--messages", type=int, default=1000, help="per repeat")
    parser.add_argument("--repeats", type=int, default=7, help="at least 5, for a meaningful median")
    parser.add_argument("--in-flight", type=int, default=16, help="messages in flight at once, at most 32")
    parser.add_argument("--samples", type=int, default=10_000_000, help="samples of the run, a multiple of 100")
    parser.add_argument("--folder", default="", help="keep scores in a folder made here; in memory otherwise")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    if args.repeats < 5 or not 1 <= args.in_flight <= 32 or args.samples % 100 or args.samples <= args.scores:
        parser.error(
            "--repeats must be at least 5, --in-flight 1 to 32, and --samples a multiple of 100 and above --scores"
        )
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(theirs, args.folder))
    process.start()
    try:
        result = measure(args, *ours.recv())
    finally:
        ours.send("stop")
        process.join()
    if args.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'':<12}{'M scores/s':>12}")
    print(f"{'echo':<12}{result['echo_scores_per_s'] / 1e6:>12.2f}")
    print(f"{'PushScores':<12}{result['push_scores_per_s'] / 1e6:>12.2f}")
    print(f"{'ratio':<12}{result['push_over_echo']:>12.2f}")


if __name__ == "__main__":
    main()
