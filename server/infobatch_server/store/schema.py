"""The tables of a store's database, and their version."""

from __future__ import annotations

__all__ = ["SCHEMA", "VERSION"]

VERSION = 1

SCHEMA = (
    # `number` stands for the run everywhere else, and never for another one; `spec` is the message `RunSpec`, without
    # shard sizes and mask.
    "CREATE TABLE runs (number INTEGER PRIMARY KEY AUTOINCREMENT, run_id BLOB NOT NULL UNIQUE, spec BLOB NOT NULL, "
    "state TEXT NOT NULL)",
    "CREATE TABLE epochs (run INTEGER, epoch INTEGER, figures TEXT NOT NULL, PRIMARY KEY (run, epoch)) WITHOUT ROWID",
    "CREATE TABLE marks (run INTEGER, epoch INTEGER, generation INTEGER, rank INTEGER, mark TEXT NOT NULL, "
    "PRIMARY KEY (run, epoch, generation, rank)) WITHOUT ROWID",
    # A saved part of a table: the last entry that is in it, and the run's counters at that entry.
    "CREATE TABLE segments (run INTEGER, segment INTEGER, entry INTEGER NOT NULL, position INTEGER NOT NULL, "
    "stored INTEGER NOT NULL, rejected INTEGER NOT NULL, crc32 INTEGER NOT NULL, PRIMARY KEY (run, segment)) "
    "WITHOUT ROWID",
    # The last pushes of each client whose entries are no longer in the journal, of the run's present generation.
    "CREATE TABLE pushes (run INTEGER, client BLOB, sequence INTEGER, PRIMARY KEY (run, client, sequence)) "
    "WITHOUT ROWID",
    # `data` comes last: the other columns are read without it. `client` and `sequence` are of pushes alone.
    "CREATE TABLE journal (id INTEGER PRIMARY KEY, run INTEGER NOT NULL, entry INTEGER NOT NULL, "
    "kind INTEGER NOT NULL, generation INTEGER, client BLOB, sequence INTEGER, data BLOB NOT NULL)",
)
