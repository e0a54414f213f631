"""The score table, and scores by the block."""
