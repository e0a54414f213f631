"""The worker processes of a loader, what they are told, and the batches that they make. No rpc."""
