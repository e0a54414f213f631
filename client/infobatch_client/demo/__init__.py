"""`infobatch demo`: a small training with and without pruning, side by side."""
