"""The rules of a run: leases, plans, the barrier, the way of scores into its table. No messages, no files."""
