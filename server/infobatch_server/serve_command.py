"""`infobatch serve`: runs a score server until a signal stops it, or its last user exits."""

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

from infobatch_server.access import options
from infobatch_server.access.tokens import Tokens
from infobatch_server.process.address import Address
from infobatch_server.process.byte_size import parse_bytes
from infobatch_server.process.data_dir import DataDir, remove_endpoint_file, write_endpoint_file
from infobatch_server.process.log_limit import LogLimit
from infobatch_server.process.users_lock import UsersLock
from infobatch_server.server import ScoreServer
from infobatch_server.state.limits import Limits
from infobatch_server.store.durable import DurableStore
from infobatch_stream.errors import ConfigError

__all__ = ["HELP", "add_arguments", "run", "wait_until_stopped"]

log = logging.getLogger(__name__)

HELP = "Run a score server."

_FIRST_GRACE_S = 2.0
_POLL_S = 1.0
_MIN_MEMORY_BYTES = 16 * 2**20  # a run takes 1 MiB before its first sample


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "--data-dir", type=Path, required=True, metavar="DIR", help="the server's directory, created if it is missing"
    )
    parser.add_argument(
        "--grpc",
        default="127.0.0.1:50051",
        metavar="HOST:PORT",
        help="address for training jobs (default: %(default)s)",
    )
    parser.add_argument(
        "--http", default="127.0.0.1:8080", metavar="HOST:PORT", help="address for statistics (default: %(default)s)"
    )
    options.add_arguments(parser)
    parser.add_argument(
        "--memory-bytes",
        metavar="SIZE",
        help="limit for all runs, with their plans: bytes, or such as 512MiB or 2GB (default: 3/4 of RAM)",
    )
    parser.add_argument(
        "--endpoint-file",
        type=Path,
        metavar="FILE",
        help="write addresses and nonce to this file, as JSON, after the start",
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="accept only calls of those who can read --endpoint-file, into which a new token is written",
    )
    parser.add_argument(
        "--exit-when-unused", type=Path, metavar="FILE", help="stop when no process holds a shared flock on this file"
    )


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT, or until the server has no users; returns 0, or 1 after a fault of the disk.

    Raises:
        ConfigError: an invalid argument.
        ServerError: the directory is in use, or an address can't be bound.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogLimit())
    grpc_address, http_address = Address.parse(args.grpc, "--grpc"), Address.parse(args.http, "--http")
    if args.private and args.endpoint_file is None:
        raise ConfigError("--private needs --endpoint-file: that is where the callers find the token")
    own_token = Tokens.new() if args.private else None
    access = options.access_of(args, own_token)
    options.check_reach(
        *(grpc_address, http_address),
        access=access,
        tokens_without_tls=args.tokens_without_tls,
        insecure=args.insecure,
    )
    limits = Limits()
    if args.memory_bytes is not None:
        limits = Limits(memory_bytes=parse_bytes(args.memory_bytes, "--memory-bytes", at_least=_MIN_MEMORY_BYTES))
    with DataDir(args.data_dir), _block_stop_signals() as wait_for_signal:
        store = DurableStore(args.data_dir)
        # Wakes the wait below: nothing more can be stored, and only a new start can tell what the disk holds.
        store.on_failure(lambda: os.kill(os.getpid(), signal.SIGTERM))
        try:
            server = ScoreServer(grpc_address, http_address, store=store, limits=limits, access=access)
        except BaseException:
            store.close()
            raise
        users = UsersLock(args.exit_when_unused) if args.exit_when_unused else None
        server.start()
        if args.endpoint_file is not None:
            write_endpoint_file(args.endpoint_file, _endpoint(server, own_token))
        print(f"infobatch score server: grpc {server.grpc_address}, http {server.http_address}", flush=True)
        wait_until_stopped(wait_for_signal, users)
        is_clean = server.stop()
        status = 0 if store.failure is None else 1
        if args.endpoint_file is not None:
            remove_endpoint_file(args.endpoint_file, server.nonce)
        if users is not None:
            users.close()
    if not is_clean:
        # The interpreter would wait for the threads that are still running.
        log.warning("unfinished calls were cut off")
        logging.shutdown()
        os._exit(status)
    return status


def _endpoint(server: ScoreServer, own_token: str | None) -> dict[str, object]:
    return {
        "grpc": str(server.grpc_address),
        "http": str(server.http_address),
        "nonce": server.nonce,
        "version": server.version,
        "pid": os.getpid(),
        **({} if own_token is None else {"token": own_token}),
    }


@contextmanager
def _block_stop_signals() -> Iterator[Callable[[float | None], bool]]:
    """Blocks SIGTERM and SIGINT in this process; yields a function that waits for one, up to a time-out in seconds.

    Waits for signals instead of handling them, because a handler can run anywhere, also while a lock is held. After
    the block, a second signal ends the process as usual.
    """
    stop_signals = (signal.SIGTERM, signal.SIGINT)
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)

    def wait(timeout_s: float | None) -> bool:
        if timeout_s is None:
            return bool(signal.sigwait(stop_signals))
        info = signal.sigtimedwait(stop_signals, timeout_s)
        # After SIGSTOP and SIGCONT, the result may name no signal.
        return info is not None and info.si_signo in stop_signals

    try:
        yield wait
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


def wait_until_stopped(
    wait_for_signal: Callable[[float | None], bool],
    users: UsersLock | None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Returns after a signal to stop, or when the server has no users.

    Args:
        wait_for_signal: waits for a signal up to this many seconds (None: forever); returns whether one came.
        users: the users' lock; None if only a signal stops the server.
        clock: monotonic clock, in seconds.
    """
    if users is None:
        wait_for_signal(None)
        return
    # The process that starts an embedded server takes the lock first; the grace period is for slow users.
    first_look = clock() + _FIRST_GRACE_S
    while not wait_for_signal(_POLL_S):
        if clock() >= first_look and users.is_unused():
            log.info("this server has no users any more")
            return
