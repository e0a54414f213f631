"""The values that a run's rules and its store share. No behaviour."""
