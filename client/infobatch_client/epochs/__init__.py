"""The open epoch of a loop: its opening, its batches with their losses, and its end. No files."""
