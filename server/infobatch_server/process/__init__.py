"""The server as a process: its data directory, its users' lock and its addresses."""
