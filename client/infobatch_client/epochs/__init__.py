"""Which epoch is open, what became of its batches, and what ends it. No rpc messages."""
