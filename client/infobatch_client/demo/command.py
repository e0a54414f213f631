"""`infobatch demo`: makes shards of digits, trains twice on them, and prints the comparison."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infobatch_stream.errors import ConfigError

HELP = "Train a small network on handwritten digits with and without pruning, and compare."

CAVEAT = (
    "One seed proves nothing about accuracy: on {num_test} test samples a few errors more or less are luck.\n"
    "Try other seeds (--seed) and compare means. Wall time follows the samples trained where the network is\n"
    "what takes the time; this one is so small that much else does."
)

RANKS_CAVEAT = (
    "{nproc} ranks train the samples that one does: the global batches are the same, and the network, in float64, has\n"
    "no BatchNorm, which would see a rank's own rows alone. In yours, expect plans to differ by a few samples."
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
    """Trains twice and prints the table; 0."""
    from infobatch_client.demo.ranks import on_ranks
    from infobatch_client.demo.shards import make_shards
    from infobatch_client.demo.table import side_by_side
    from infobatch_client.demo.training import BATCH_SIZE, Settings, train_both
    from infobatch_client.embedded.server import EmbeddedServer

    if args.epochs < 1:
        raise ConfigError(f"--epochs must be at least 1, not {args.epochs}")
    if args.nproc < 1 or BATCH_SIZE % args.nproc:
        divisors = ", ".join(str(n) for n in range(1, BATCH_SIZE + 1) if BATCH_SIZE % n == 0)
        raise ConfigError(f"--nproc {args.nproc} can't share batches of {BATCH_SIZE} evenly: give one of {divisors}")
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
        server = EmbeddedServer.start(
            settings.state_dir
        )  # here: its start is in neither wall time, and all ranks find it
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
    """The folder to work in: `keep` if it is empty or not there yet, else a temporary one."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="infobatch-demo-", ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigError(f"--keep {keep} is not an empty folder: name another")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep
