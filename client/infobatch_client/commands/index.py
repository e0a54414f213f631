"""`infobatch index`: writes or refreshes the index files of shards, and prints their totals and fingerprint."""

from __future__ import annotations

import argparse
import sys

from infobatch_client.shards.index_store import index_shards
from infobatch_client.shards.urls import expand_shards

__all__ = ["HELP", "add_arguments", "run"]

HELP = (
    "Writes or refreshes the index file of every shard. Training does this by itself at its first start; doing it "
    "before saves that time, and finds damaged shards."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "shards",
        nargs="+",
        metavar="SHARDS",
        help="files, folders, globs or braces like 'data/train-{0000..0049}.tar'; together one data set",
    )
    parser.add_argument("--force", action="store_true", help="scan all shards again, valid index or not")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, and print the fingerprint only")


def run(args: argparse.Namespace) -> int:
    """Indexes, and prints shards, samples and fingerprint; bad shards on stderr, a line each.

    Args:
        args: parsed by a parser with `add_arguments`.

    Returns:
        0; 2 if there are bad shards. The others are indexed then, and counted alone.

    Raises:
        ConfigError: no shard matches, or an index file can't be written.
        ShardError: all shards are missing, empty, damaged, compressed, or have a key twice; named.
    """
    urls = expand_shards(args.shards, missing_ok=True)
    indexed = index_shards(
        urls, progress=False if args.quiet else None, force=args.force, max_left_out=None, max_named=len(urls)
    )
    manifest = indexed.manifest
    for _, reason in indexed.left_out:
        print(f"infobatch: {reason}", file=sys.stderr)
    if indexed.left_out:
        print(f"infobatch: {len(indexed.left_out)} of {len(urls)} shards can't be used", file=sys.stderr)
    if args.quiet:
        print(manifest.fingerprint.hex())
    else:
        print(f"shards       {manifest.num_shards:,} ({indexed.total_bytes:,} bytes)")
        print(f"samples      {manifest.num_samples:,}")
        print(f"fingerprint  {manifest.fingerprint.hex()}")
    return 2 if indexed.left_out else 0
