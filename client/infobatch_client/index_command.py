"""`infobatch index`: makes or refreshes the index files of shards, and says what the data set is."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from infobatch_client.index_store import index_shards
from infobatch_client.shard_urls import expand_shards
from infobatch_stream.errors import ConfigError, ShardError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_parser", "run"]


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `index` command to the parser of `infobatch`."""
    parser = subparsers.add_parser(
        "index",
        help="index shards, so that single samples can be read from them",
        description="Makes or refreshes the index file of every shard. Training does this by itself at its "
        "first start; doing it before saves that time, and finds damaged shards.",
    )
    parser.add_argument(
        "shards",
        nargs="+",
        metavar="SHARDS",
        help="files, folders, globs or braces like 'data/train-{0000..0049}.tar'; together one data set",
    )
    parser.add_argument("--force", action="store_true", help="scan all shards again, valid index or not")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, and print the fingerprint only")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `infobatch index`.

    Args:
        args: what the parser of `add_parser` gave.

    Returns:
        The exit status: 0, or 1 with the reason on standard error.
    """
    try:
        indexed = index_shards(expand_shards(args.shards), progress=False if args.quiet else None, force=args.force)
    except (ConfigError, ShardError) as error:
        print(f"infobatch index: {error}", file=sys.stderr)
        return 1
    manifest = indexed.manifest
    if args.quiet:
        print(manifest.fingerprint.hex())
        return 0
    print(f"shards       {manifest.num_shards:,} ({indexed.total_bytes:,} bytes)")
    print(f"samples      {manifest.num_samples:,}")
    print(f"fingerprint  {manifest.fingerprint.hex()}")
    return 0
