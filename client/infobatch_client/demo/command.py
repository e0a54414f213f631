"""`infobatch demo`: writes shards of digits, trains on them twice, and prints a comparison."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infobatch_stream.errors import ConfigError

HELP = "Train a small network on handwritten digits with and without pruning, and compare."

IMPORTS = ("infobatch_client.demo.shards", "infobatch_client.demo.training", "infobatch_client.embedded.server")

CAVEAT = (
    "One seed proves nothing about accuracy: on {num_test} test samples a few errors more or less are luck.\n"
    "Try other seeds (--seed) and compare means. With a large network, wall time is proportional to the samples\n"
    "trained; this one is so small that other work takes much of the time."
)

RANKS_CAVEAT = (
    "{nproc} ranks train the same samples as one rank: the global batches are the same, and the network uses float64\n"
    "and no BatchNorm, whose statistics depend on a rank's own rows. With your network, expect plans to differ by a\n"
    "few samples."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--epochs", type=int, default=30, help="of each training (default: %(default)s)")
    parser.add_argument(
        "--prune-ratio",
        type=float,
        default=0.5,
        metavar="R",
        help="share of the samples below the mean loss to skip (default: %(default)s)",
    )
    parser.add_argument(
        "--delta",
        type=float,
        default=0.875,
        metavar="D",
        help="share of the epochs that prune; the rest trains on everything (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and draws (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers (default: %(default)s)")
    parser.add_argument(
        "--nproc",
        type=int,
        default=1,
        metavar="N",
        help="ranks that train together, each a process on this machine (default: %(default)s)",
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="work in DIR, which must be empty, and keep shards and state"
    )


def run(args: argparse.Namespace) -> int:
    """Trains twice and prints the table; returns 0.

    Raises:
        ConfigError: an invalid argument.
        RanksError: a rank failed or was killed.
    """
    from infobatch_client.demo.ranks import on_ranks
    from infobatch_client.demo.shards import make_shards
    from infobatch_client.demo.table import side_by_side
    from infobatch_client.demo.training import BATCH_SIZE, Settings, train_both
    from infobatch_client.embedded.server import EmbeddedServer

    if args.epochs < 1:
        raise ConfigError(f"--epochs must be at least 1; got {args.epochs}")
    if args.nproc < 1 or BATCH_SIZE % args.nproc:
        divisors = ", ".join(str(n) for n in range(1, BATCH_SIZE + 1) if BATCH_SIZE % n == 0)
        raise ConfigError(
            f"--nproc must divide the batch size {BATCH_SIZE}; got {args.nproc}, choose one of {divisors}"
        )
    with _work_folder(args.keep) as folder:
        shards = make_shards(folder)
        print(
            f"{shards.num_train:,} digits to train on, {shards.num_test} to test on; shards in {folder}",
            file=sys.stderr,
        )
        settings = Settings(
            epochs=args.epochs,
            prune_ratio=args.prune_ratio,
            delta=args.delta,
            seed=args.seed,
            workers=args.workers,
            state_dir=folder / "state",
        )
        # Started here, so that no wall time includes the start, and all ranks find the server.
        server = EmbeddedServer.start(settings.state_dir)
        try:
            full, pruned = on_ranks(args.nproc, train_both, shards, settings)
        finally:
            server.release()
    print()
    print(side_by_side(full, pruned, f"infobatch, r = {args.prune_ratio}, δ = {args.delta}"))
    print()
    print(CAVEAT.format(num_test=full.num_test))
    if args.nproc > 1:
        print(RANKS_CAVEAT.format(nproc=args.nproc))
    return 0


@contextmanager
def _work_folder(keep: Path | None) -> Iterator[Path]:
    """The folder for shards and state: `keep`, which must be empty or missing, or by default a temporary folder."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="infobatch-demo-", ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigError(f"--keep {keep} must be a new or an empty folder; choose another")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep
