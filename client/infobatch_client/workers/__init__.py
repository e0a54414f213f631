"""The worker processes of a loader, the memory that names their pass, and the batches that they make. No rpc."""
