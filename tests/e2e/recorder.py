"""Records every call between a client and a score server, as bytes, by standing between them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc

_OPTIONS = [("grpc.max_receive_message_length", 2**26), ("grpc.max_send_message_length", 2**26)]
Call = tuple[str, list[bytes], list[bytes]]


class Recorder(grpc.GenericRpcHandler):
    """Forwards calls to a server; `calls` has (rpc, requests, answers) of each that succeeded."""

    def __init__(self, target: str) -> None:
        self.calls: list[Call] = []
        self.address = ""
        self._lock = threading.Lock()
        self._channel = grpc.insecure_channel(target, options=_OPTIONS)

    def service(self, handler_call_details: Any) -> Any:
        forward = self._channel.stream_stream(handler_call_details.method)
        rpc = handler_call_details.method.rpartition("/")[2]

        def answers(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            sent: list[bytes] = []
            received: list[bytes] = []

            def copied() -> Iterator[bytes]:
                for request in requests:
                    sent.append(request)
                    yield request

            for answer in forward(copied()):
                received.append(answer)
                yield answer
            with self._lock:
                self.calls.append((rpc, sent, received))

        return grpc.stream_stream_rpc_method_handler(answers)


@contextmanager
def recorder(target: str) -> Iterator[Recorder]:
    """A recorder in front of the server at `target`, on a port of its own."""
    handler = Recorder(target)
    server = grpc.server(futures.ThreadPoolExecutor(16), handlers=[handler], options=_OPTIONS)
    handler.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield handler
    finally:
        server.stop(0).wait()
        handler._channel.close()
