"""The way to a score server: its address, typed calls, and REST for the commands. No decisions."""
