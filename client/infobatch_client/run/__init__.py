"""A run as one job sees it: its options, joining it, pushing its scores, resuming it. No files of shards."""
