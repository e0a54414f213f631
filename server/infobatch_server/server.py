"""A complete score server in one object: store, runs, gRPC and HTTP."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from types import TracebackType

from infobatch_server.access.access import Access
from infobatch_server.process.address import Address
from infobatch_server.process.port_check import check_can_listen
from infobatch_server.rpc.server import GrpcServer
from infobatch_server.rpc.service import ScoreService
from infobatch_server.runs.registry import Registry
from infobatch_server.state.limits import Limits
from infobatch_server.store.interface import RunStore
from infobatch_server.store.memory import MemoryStore
from infobatch_server.web.api import make_app
from infobatch_server.web.server import HttpServer, bind
from infobatch_stream.version import __version__

__all__ = ["ScoreServer"]

log = logging.getLogger(__name__)

_STOP_GRACE_S = 1.5


class ScoreServer:
    """Serves runs over gRPC, and their statistics over HTTP.

    The constructor binds the addresses; `start` begins to answer. A context manager that starts and stops the server.

    Args:
        grpc: address of gRPC; port 0 for any free port.
        http: address of HTTP; None for no HTTP.
        store: keeps the runs; in memory by default.
        limits: the server's limits.
        access: what guards the server; nothing by default.
        clock: monotonic clock in seconds, for leases and barriers.

    Raises:
        ServerError: an address can't be bound.

    Example:
        >>> with ScoreServer() as server:
        ...     channel = grpc.insecure_channel(str(server.grpc_address))
    """

    def __init__(
        self,
        grpc: Address = Address("127.0.0.1", 0),  # noqa: B008 - immutable
        http: Address | None = None,
        *,
        store: RunStore | None = None,
        limits: Limits | None = None,
        access: Access = Access(),  # noqa: B008 - immutable
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = limits or Limits()
        self.nonce = secrets.token_hex(16)
        self.version = __version__
        self._store: RunStore = store or MemoryStore()
        self._ready = False
        self.registry = Registry(self._store, limits, clock)
        service = ScoreService(
            self.registry, limits, nonce=self.nonce, version=self.version, durable=self._store.durable
        )
        self._http: HttpServer | None = None
        self.http_address: Address | None = None
        if http is not None:
            listener = bind(http)
            app = make_app(
                self.registry,
                version=self.version,
                is_ready=lambda: self._ready,
                listens_at=http,
                grpc_address=lambda: str(self.grpc_address),
                access=access,
            )
            tls = None if access.certificates is None else access.certificates.ssl_context()
            self._http = HttpServer(app, listener, tls=tls)
            self.http_address = http.at(self._http.port)
        try:
            check_can_listen(grpc, "--grpc")
            self._grpc = GrpcServer(service, limits, str(grpc), access)
        except BaseException:
            if self._http is not None:
                self._http.stop(0)
            raise
        self.grpc_address = grpc.at(self._grpc.port)

    def start(self) -> None:
        """Recovers the runs, then answers calls. HTTP answers from the beginning, but says nothing of runs until then.

        Raises:
            ServerError: the runs can't be recovered.
        """
        if self._http is not None:
            self._http.start()
        try:
            self.registry.load()
            self._store.start()
        except BaseException:
            self.stop()
            raise
        self._grpc.start()
        self._ready = True

    def stop(self) -> bool:
        """Refuses new calls, ends the current ones, and closes the store; returns whether all ended in time."""
        self._ready = False
        is_clean = self._grpc.stop(_STOP_GRACE_S)
        if self._http is not None:
            is_clean &= self._http.stop(_STOP_GRACE_S)
        # A draw can't be interrupted, so its thread may outlive its call.
        is_clean &= not any(run.core.feed.is_paused for run in self.registry.runs())
        self._store.close()
        log.info("stopped")
        return is_clean

    def __enter__(self) -> ScoreServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
