"""gRPC: messages in, answers out. No state."""
