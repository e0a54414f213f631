"""The score server: runs, journal, snapshots, gRPC service, REST, metrics and web page."""

import sys

if sys.platform == "win32":
    raise ImportError("infobatch-stream runs on Linux and macOS, not on Windows; Linux under WSL2 is fine")
