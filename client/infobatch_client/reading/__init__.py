"""Reads samples of indexed shards, by positioned reads. No webdataset stages."""
