"""The score server: runs, journal, snapshots, gRPC service, REST, metrics and web page."""
