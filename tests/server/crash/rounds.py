"""Kills a server at random moments, again and again, and compares what it recovers with what it had acknowledged.

python -m tests.server.crash.rounds --rounds 100 --seed 1
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import Caller, attach_request, caller_on, end_request, make_spec, plan_of
from tests.server.crash.model import Model, Push

N = 6000
CLIENTS = 4
EPOCHS = 60_000
_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_SERVER = Path(__file__).with_name("small_server.py")


class Server:
    """The server's process."""

    def __init__(self, folder: Path, log: Path) -> None:
        with open(log, "ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(_SERVER), str(folder)], stdout=subprocess.PIPE, stderr=out, text=True
            )

    def address(self) -> str:
        """Its address, once it has recovered; "" if it was killed before."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclass
class Client:
    """A client that pushes one batch after the other, of samples that no other client has."""

    number: int
    rng: np.random.Generator
    generation: int = 0
    sequence: int = 0
    open: Push | None = None  # sent, and not answered
    acknowledged: list[Push] = field(default_factory=list)  # since the last check

    def run(self, caller: Caller, run_id: bytes, job: Job) -> None:
        """Pushes until the server goes away."""
        while True:
            if self.open is None:
                self.sequence += 1
                own = np.arange(self.number, N, CLIENTS)
                first = int(self.rng.integers(len(own)))
                indices = self.rng.permutation(own[first : first + int(self.rng.integers(1, 200))])
                scores = self.rng.random(len(indices)).astype(np.float32)
                client_id = self.generation.to_bytes(8, "big") + self.number.to_bytes(8, "big")
                epoch = max(0, job.epoch - int(self.rng.integers(2)))
                self.open = Push(client_id, self.sequence, epoch, indices, scores)
            if not self.send(caller, run_id, self.open):
                return
            self.acknowledged.append(self.open)
            self.open = None

    def send(self, caller: Caller, run_id: bytes, push: Push) -> bool:
        """Whether the push was acknowledged."""
        request = pb.PushScoresRequest(
            run_id=run_id,
            generation=self.generation,
            client_id=push.client_id,
            sequence=push.sequence,
            epoch=push.epoch,
            indices=push.indices.astype("<i8").tobytes(),
            scores=push.scores.astype("<f4").tobytes(),
        )
        while True:
            try:
                caller.stub.PushScores(request, timeout=20)
                return True
            except grpc.RpcError as error:
                if error.code() in _GONE:
                    return False
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:  # the journal is full for a moment
                    raise
                time.sleep(0.01)


class Job:
    """A job of one rank that opens epochs and keeps what it saw of their plans, and its clients."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.model = Model(N)
        self.clients = [Client(number, np.random.default_rng([seed, number])) for number in range(CLIENTS)]
        self.generation = 0
        self.epoch = -1
        self.plans: dict[int, tuple[str, bytes]] = {}
        self.counts: Counter[str] = Counter()
        self.nonce = 0

    def attach(self, caller: Caller, run_id: bytes) -> None:
        """Starts the next generation, at the start of the newest epoch or of the one before."""
        self.nonce += 1
        start = max(0, self.epoch - self.rng.randrange(2))
        resume = pb.Resume(new=pb.Resume.New()) if self.epoch < 0 else pb.Resume(start=pb.Resume.Start(epoch=start))
        request = attach_request(run_id, nonce=self.nonce.to_bytes(16, "big"), resume=resume, takeover=True)
        self.generation = caller.stub.AttachRun(request, timeout=20).generation
        self.model.rewind(start)
        self.epoch = start - 1
        self.plans = {epoch: plan for epoch, plan in self.plans.items() if epoch < start}
        for client in self.clients:
            client.generation, client.sequence, client.open = self.generation, 0, None
        self.counts["attached"] += 1
        self.open_epoch(caller, run_id)

    def open_epoch(self, caller: Caller, run_id: bytes) -> None:
        """Ends the newest epoch, and has the next one's plan drawn."""
        if self.epoch in self.plans:
            request = end_request(run_id, self.generation, self.epoch, self.plans[self.epoch][0])
            caller.stub.EndEpoch(request, timeout=20)
        request = pb.GetEpochPlanRequest(run_id=run_id, generation=self.generation, epoch=self.epoch + 1)
        messages = list(caller.stub.GetEpochPlan(request, timeout=20))
        if messages[0].WhichOneof("part") == "header":
            self.epoch += 1
            self.plans[self.epoch] = (plan_of(iter(messages)).plan_id, _bytes(messages))
            self.counts["plans"] += 1

    def run(self, caller: Caller, run_id: bytes) -> None:
        """Opens epochs until the server goes away."""
        try:
            while True:
                self.open_epoch(caller, run_id)
                time.sleep(self.rng.random() * 0.05)
        except grpc.RpcError as error:
            if error.code() not in _GONE:
                raise

    def check(self, caller: Caller, run_id: bytes) -> None:
        """Sends again what was not answered, and compares all that the server has with what it had answered."""
        for client in self.clients:
            if client.open is not None:
                assert client.send(caller, run_id, client.open)
                client.acknowledged.append(client.open)
                client.open = None
            for push in client.acknowledged:
                self.model.push(push)
            self.counts["pushes"] += len(client.acknowledged)
            client.acknowledged.clear()
        for part in caller.stub.ReadScores(pb.ReadScoresRequest(run_id=run_id), timeout=20):
            first = part.first_sample
            for name, dtype in (("score", "<f4"), ("stamp", "<u2"), ("visits", "<u2")):
                found = np.frombuffer(getattr(part, name if name == "visits" else name + "s"), dtype)
                expected = getattr(self.model, name)[first : first + len(found)]
                np.testing.assert_array_equal(found, expected, err_msg=name)
        info = caller.stub.GetRun(pb.GetRunRequest(run_id=run_id), timeout=20).run
        assert info.generation == self.generation
        assert info.last_epoch in (self.epoch, self.epoch + 1), "a plan may be drawn, and its answer lost"
        for epoch in sorted(self.plans)[-7:]:
            plan_id, expected_bytes = self.plans[epoch]
            request = pb.GetEpochPlanRequest(run_id=run_id, plan_id=plan_id, epoch=epoch)
            assert _bytes(list(caller.stub.GetEpochPlan(request, timeout=20))) == expected_bytes, plan_id
            self.counts["plans compared"] += 1


def _bytes(messages: list[pb.GetEpochPlanResponse]) -> bytes:
    return b"".join(message.SerializeToString(deterministic=True) for message in messages)


def crash(folder: Path, *, rounds: int, seed: int) -> Counter[str]:
    """Kills a server so many times; returns what was done and compared.

    Raises:
        AssertionError: something acknowledged was lost, or something is there that nobody sent.
    """
    job, rng = Job(seed), random.Random(seed)
    data, log = folder / "data", folder / "server.log"
    run_id = b""
    for number in range(rounds + 1):
        server = Server(data, log)
        if rng.random() < 0.25:
            time.sleep(rng.random() * 0.9)  # in its start, or in its recovery
            server.kill()
            job.counts["killed at start"] += 1
            server = Server(data, log)
        address = server.address()
        assert address, log.read_text()[-3000:]
        channel, caller = caller_on(address)
        with channel:
            if not run_id:
                run_id = bytes(caller.create(make_spec(num_samples=N, epochs=EPOCHS)).run_id)
                job.attach(caller, run_id)
            job.check(caller, run_id)
            if number == rounds:
                server.kill()
                break
            if rng.random() < 0.2:
                job.attach(caller, run_id)
            with ThreadPoolExecutor(CLIENTS + 1) as pool:
                calls = [pool.submit(client.run, caller, run_id, job) for client in job.clients]
                calls.append(pool.submit(job.run, caller, run_id))
                time.sleep(0.02 + rng.random() * 0.6)
                server.kill()
            for call in calls:
                call.result()
        job.counts["killed"] += 1
    return job.counts


def main() -> None:
    """Runs the test, and says what it did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = crash(Path(folder), rounds=args.rounds, seed=args.seed)
        saved = (Path(folder) / "server.log").read_text().count("recovered ")
    print(f"{args.rounds} rounds, seed {args.seed}: {dict(counts)}, {saved} recoveries; nothing was lost")


if __name__ == "__main__":
    main()
