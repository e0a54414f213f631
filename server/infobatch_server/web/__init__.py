"""The REST endpoint: statistics of the runs over HTTP, read-only. No state."""
