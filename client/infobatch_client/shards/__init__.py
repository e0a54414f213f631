"""Shards before they are opened for training: names, tar headers, scanning, the index and its files. No torch."""
