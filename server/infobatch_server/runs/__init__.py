"""The rules of a run: leases, plans, the barrier, and how scores reach its table. No messages, no files."""
