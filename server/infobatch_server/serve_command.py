"""`infobatch serve`: runs a score server until it is told to stop."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from infobatch_server.process.address import Address
from infobatch_server.process.data_dir import DataDir, remove_endpoint_file, write_endpoint_file
from infobatch_server.process.users_lock import UsersLock
from infobatch_server.server import ScoreServer
from infobatch_server.state.limits import Limits
from infobatch_stream.errors import ConfigError

__all__ = ["HELP", "add_arguments", "run", "wait_for_end"]

log = logging.getLogger(__name__)

HELP = "Run a score server."

_FIRST_GRACE_S = 2.0
_POLL_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "--data-dir", type=Path, required=True, metavar="DIR", help="the server's directory, made if it isn't there"
    )
    parser.add_argument(
        "--grpc", default="127.0.0.1:50051", metavar="HOST:PORT", help="for training jobs (default: %(default)s)"
    )
    parser.add_argument(
        "--http", default="127.0.0.1:8080", metavar="HOST:PORT", help="for statistics (default: %(default)s)"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="allow addresses that other machines reach, without TLS or tokens"
    )
    parser.add_argument(
        "--memory-bytes", type=int, default=0, metavar="N", help="for the scores of all runs (default: 3/4 of RAM)"
    )
    parser.add_argument(
        "--endpoint-file", type=Path, metavar="FILE", help="write addresses and nonce here, as JSON, once serving"
    )
    parser.add_argument(
        "--exit-when-unused", type=Path, metavar="FILE", help="stop when no process holds a shared flock on this file"
    )


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM, SIGINT, or until nobody uses the server; 0.

    Raises:
        ConfigError: arguments that can't be meant.
        ServerError: the directory is in use, or an address can't be bound.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    grpc_address, http_address = Address.parse(args.grpc, "--grpc"), Address.parse(args.http, "--http")
    _check_reach(grpc_address, http_address, insecure=args.insecure)
    if args.memory_bytes < 0:
        raise ConfigError(f"--memory-bytes {args.memory_bytes} is negative")
    with DataDir(args.data_dir), _stop_signals() as told_to_stop:
        server = ScoreServer(grpc_address, http_address, limits=Limits(memory_bytes=args.memory_bytes))
        users = UsersLock(args.exit_when_unused) if args.exit_when_unused else None
        server.start()
        log.warning("scores are kept in memory: they end with this process")
        if args.endpoint_file is not None:
            write_endpoint_file(args.endpoint_file, _endpoint(server))
        print(f"infobatch score server: grpc {server.grpc_address}, http {server.http_address}", flush=True)
        wait_for_end(told_to_stop, users)
        ended = server.stop()
        if args.endpoint_file is not None:
            remove_endpoint_file(args.endpoint_file, server.nonce)
        if users is not None:
            users.close()
    if not ended:
        # The interpreter would wait for the threads that are still at work.
        log.warning("calls under way were cut off")
        logging.shutdown()
        os._exit(0)
    return 0


def _check_reach(*addresses: Address, insecure: bool) -> None:
    for address in addresses:
        if address.is_loopback:
            continue
        if not insecure:
            raise ConfigError(
                f"{address} can be reached from other machines, and this server has neither TLS nor tokens: bind "
                "127.0.0.1, or pass --insecure if the network is yours alone"
            )
        log.warning("--insecure: whoever reaches %s may read and write every run", address)


def _endpoint(server: ScoreServer) -> dict[str, object]:
    return {
        "grpc": str(server.grpc_address),
        "http": str(server.http_address),
        "nonce": server.nonce,
        "version": server.version,
        "pid": os.getpid(),
    }


@contextmanager
def _stop_signals() -> Iterator[Callable[[float | None], bool]]:
    """Keeps SIGTERM and SIGINT from this process and its threads; what waits for one, up to some seconds.

    They are waited for rather than handled: a handler runs anywhere, also where a lock is held. After the block a
    second signal ends the process as usual.
    """
    chosen = (signal.SIGTERM, signal.SIGINT)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, chosen)

    def wait(timeout_s: float | None) -> bool:
        if timeout_s is None:
            return bool(signal.sigwait(chosen))
        caught = signal.sigtimedwait(chosen, timeout_s)
        # A process that was stopped and goes on may be given an answer with no signal in it.
        return caught is not None and caught.si_signo in chosen

    try:
        yield wait
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_for_end(
    told_to_stop: Callable[[float | None], bool],
    users: UsersLock | None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Returns when the server is told to stop, or has no users.

    Args:
        told_to_stop: waits that many seconds (None: for ever) to be told.
        users: the users' lock; None where only a signal ends the server.
        clock: seconds that only rise.
    """
    if users is None:
        told_to_stop(None)
        return
    # Who starts a server takes the lock first, as the embedded one's users do; a slow one has a little longer.
    first_look = clock() + _FIRST_GRACE_S
    while not told_to_stop(_POLL_S):
        if clock() >= first_look and users.is_unused():
            log.info("nobody uses this server any more")
            return
