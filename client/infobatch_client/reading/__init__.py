"""Samples from the bytes of indexed shards, by positioned reads. No webdataset stages."""
