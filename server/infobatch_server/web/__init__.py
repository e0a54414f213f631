"""REST: a run's statistics over HTTP, read-only. No state."""
