"""What is pruned: policies, the threshold, the draw, the schedule. No bytes, no messages."""
