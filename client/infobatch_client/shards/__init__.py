"""Shards on disk: their URLs, tar headers, scanning, indexes and index files. No torch."""
