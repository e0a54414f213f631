"""Processes that are forked while calls are made: gRPC has nothing to complain about, and their own calls work."""

from __future__ import annotations

import subprocess
import sys

from tests.e2e.conftest import Server

FORK_WHILE_CALLING = """
import os, sys, threading
from infobatch_client.rpc.client import ScoreClient
from infobatch_stream.v1 import score_service_pb2 as pb

client, stop, calls = ScoreClient(sys.argv[1]), threading.Event(), []

def go_on() -> None:
    while not stop.is_set():
        calls.append(client.get_server(pb.GetServerRequest()).nonce)

threads = [threading.Thread(target=go_on) for _ in range(2)]
for thread in threads:
    thread.start()
codes = []
for number in range(60):
    before = len(calls)
    while len(calls) < before + 2:
        pass
    if not (child := os.fork()):
        os._exit(0 if number or client.get_server(pb.GetServerRequest()).nonce else 1)
    codes.append(os.waitpid(child, 0)[1])
stop.set()
for thread in threads:
    thread.join()
print(codes.count(0), len(set(calls)))
"""


def test_forks_while_scores_are_pushed_write_nothing(server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK_WHILE_CALLING, server.url], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr) == ("60 1\n", "")
