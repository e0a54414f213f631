"""Sends malformed, refused and odd messages over every rpc of a server, and prints the statuses and the memory.

Every method of the three services gets messages that were made from its descriptor (numbers at the ends of their
ranges, enum values that don't exist, NaN, deep nesting), valid ones of a run that lives, and both of these damaged:
cut short, bytes flipped, spliced, repeated, text that is not UTF-8. Some calls have a deadline of nothing, send no
message, or end before the answer. INTERNAL and UNKNOWN are defects, and the memory must stay flat.

    python -m benchmarks.malformed --messages 100000
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from benchmarks.pushing import attached_run
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1 import score_service_pb2_grpc as pb_grpc

SERVICES = (
    pb.DESCRIPTOR.services_by_name["ScoreService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)
METHODS = [method for service in SERVICES for method in service.methods]
DEFECTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)

_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS = (0.0, -0.0, 1.5, float("nan"), float("inf"), -float("inf"), 1e-45, 3e38)
_TEXTS = ("", "a", "../x", "ｎ" * 50, "\0", "0.5", "1e999999999", "nan", "infobatch", "loss", "x" * 5000)
_MAX_DEPTH = 4


@dataclass
class Run:
    """A run that lives, so that some messages are about something."""

    run_id: bytes
    generation: int


class Fuzzer:
    """Makes the messages of a call; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def messages(self, method: MethodDescriptor, run: Run) -> list[bytes]:
        """The messages of one call: one, or for a stream none to four."""
        count = self._random.randrange(5) if method.client_streaming else int(self._random.random() < 0.98)
        kind = GetMessageClass(method.input_type)
        return [self._damaged(self._made(kind, run).SerializeToString()) for _ in range(count)]

    def choice(self, values: Any) -> Any:
        """One of some values."""
        return self._random.choice(values)

    def chance(self, share: float) -> bool:
        """True in a share of the cases."""
        return self._random.random() < share

    def _made(self, kind: type[Any], run: Run, depth: int = 0) -> Any:
        message = kind()
        for field in message.DESCRIPTOR.fields:
            if not self.chance(0.7):
                continue
            value = self._special(field, run)
            if field.cpp_type == field.CPPTYPE_MESSAGE:
                if depth < _MAX_DEPTH:
                    nested = self._made(GetMessageClass(field.message_type), run, depth + 1)
                    place = getattr(message, field.name)
                    (place.add() if field.is_repeated else place).CopyFrom(nested)
            elif field.is_repeated:
                getattr(message, field.name).extend(self._value(field) for _ in range(self.choice((0, 1, 3, 300))))
            else:
                setattr(message, field.name, self._value(field) if value is None else value)
        return message

    def _special(self, field: FieldDescriptor, run: Run) -> Any:
        known = {"run_id": run.run_id, "generation": run.generation, "run": "pushing", "client_id": bytes(16)}
        small = {"epoch": self.choice((0, 1)), "sequence": self.choice((1, 2, 40)), "world_size": 2, "rank": 0}
        known |= small | {"nonce": bytes(16), "indices": bytes(16), "scores": bytes(8), "host": "h", "job": "j"}
        return known.get(field.name) if not field.is_repeated and self.chance(0.7) else None

    def _value(self, field: FieldDescriptor) -> Any:
        if field.cpp_type in _BITS:
            low, high = _BITS[field.cpp_type]
            return self.choice((low, high, 0, 1, 2, 7, 1000, self._random.randint(low, high)))
        if field.cpp_type == field.CPPTYPE_BOOL:
            return self.chance(0.5)
        if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
            return self.choice(_FLOATS)
        if field.cpp_type == field.CPPTYPE_ENUM:
            return self.choice((0, 1, 2, 99, -1))
        text = self.choice(_TEXTS)
        return text.encode() if field.type == field.TYPE_BYTES else text

    def _damaged(self, data: bytes) -> bytes:
        damage = self._random.randrange(14)  # seven kinds, and as often none
        place = self._random.randrange(len(data) + 1)
        if damage == 0:
            return data[:place]
        if damage == 1 and data:
            flipped = bytearray(data)
            for _ in range(self._random.randrange(1, 4)):
                flipped[self._random.randrange(len(flipped))] ^= 1 << self._random.randrange(8)
            return bytes(flipped)
        if damage == 2:
            return data[:place] + self._random.randbytes(self._random.randrange(40)) + data[place:]
        if damage == 3:
            return self._random.randbytes(self._random.randrange(200))
        if damage == 4:
            return data + data[place:]
        if damage == 5:
            nested = b""  # a field in a field in a field, hundreds deep
            for _ in range(self._random.randrange(400)):
                nested = b"\x0a" + _varint(len(nested)) + nested
            return data + nested
        if damage == 6:
            return data + b"\x0a\x04\xff\xfe\x80\xc0"  # text that is not UTF-8, in field 1
        return data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


class Sender:
    """Sends calls, several at once, and counts how they end.

    Args:
        address: of the server.
        seed: of the messages.
    """

    def __init__(self, address: str, seed: int = 0) -> None:
        self.statuses: Counter[tuple[str, grpc.StatusCode]] = Counter()
        self._channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
        self._stub = pb_grpc.ScoreServiceStub(self._channel)
        self._fuzzer = Fuzzer(seed)
        self._address = address

    def send(self, count: int, *, in_flight: int = 16) -> None:
        """Sends `count` calls of all methods in turn; a run of its own lives meanwhile, and no run is left over."""
        lock, slots = threading.Lock(), threading.Semaphore(in_flight)

        def note(name: str, code: grpc.StatusCode) -> None:
            with lock:
                self.statuses[name, code] += 1
            slots.release()

        run = self._new_run()
        for number in range(count):
            if number % 500 == 499:
                run = self._new_run()
            method = METHODS[number % len(METHODS)]
            slots.acquire()
            threading.Thread(target=self._call, args=(method, self._fuzzer.messages(method, run), note)).start()
        for _ in range(in_flight):
            slots.acquire()
        self._delete_runs()

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _call(self, method: MethodDescriptor, messages: list[bytes], note: Any) -> None:
        path = f"/{method.containing_service.full_name}/{method.name}"
        # All kinds of calls are streams of messages on the wire.
        call = self._channel.stream_stream(path)(iter(messages), timeout=_timeout_s(method, len(messages)))
        try:
            for answered, _ in enumerate(call):
                if answered == 3:
                    call.cancel()
            code = call.code()
        except grpc.RpcError as error:
            code = error.code()  # type: ignore[attr-defined]
        note(method.name, code)

    def _new_run(self) -> Run:
        self._delete_runs()
        return Run(*attached_run(self._stub, 1000))

    def _delete_runs(self) -> None:
        for info in self._stub.ListRuns(pb.ListRunsRequest()).runs:
            try:
                self._stub.DeleteRun(pb.DeleteRunRequest(run_id=info.run_id, force=True))
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:  # type: ignore[attr-defined]
                    raise


def _timeout_s(method: MethodDescriptor, count: int) -> float:
    return 0.001 if count == 4 else 0.1 if method.name == "Watch" else 10.0


@contextmanager
def server(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """A server in a process of its own: the process, its gRPC address, and its log."""
    with tempfile.TemporaryDirectory() as folder:
        endpoint, log = Path(folder, "endpoint.json"), Path(folder, "log")
        command = [sys.executable, "-m", "infobatch_stream", "serve", "--data-dir", folder, "--grpc", "127.0.0.1:0"]
        command += ["--http", "127.0.0.1:0", "--endpoint-file", str(endpoint), *options]
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            try:
                while not endpoint.exists():
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.02)
                yield process, json.loads(endpoint.read_text())["grpc"], log
            finally:
                process.terminate()


def resident_kib(process: subprocess.Popen[bytes]) -> int:
    """The resident memory of a process."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000, help="calls in all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with server("--memory-bytes", "200000000") as (process, address, log):
        sender = Sender(address, args.seed)
        warm_up = args.messages // 5
        sender.send(warm_up)
        before_kib = resident_kib(process)
        start_s = time.perf_counter()
        sender.send(args.messages - warm_up)
        elapsed_s = time.perf_counter() - start_s
        after_kib, log_bytes = resident_kib(process), log.stat().st_size
        sender.close()
    by_status: Counter[str] = Counter()
    for (_, code), count in sender.statuses.items():
        by_status[code.name] += count
    for name, count in by_status.most_common():
        print(f"{name:<22}{count:>9}")
    for (method, code), count in sender.statuses.items():
        if code in DEFECTS:
            print(f"DEFECT {method} {code.name} {count}")
    print(f"{sum(by_status.values())} calls, {(args.messages - warm_up) / elapsed_s:.0f} per second")
    print(f"resident after {warm_up} calls {before_kib / 1024:.1f} MiB, at the end {after_kib / 1024:.1f} MiB")
    print(f"log {log_bytes / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
