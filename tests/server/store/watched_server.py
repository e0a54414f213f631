"""`infobatch serve`, with a line for each connection to SQLite that it makes, and for each time that it opens the file.

python -m tests.server.store.watched_server LINES --data-dir DIR …
"""

from __future__ import annotations

import argparse
import os
import sys

from infobatch_server import serve_command


def main() -> int:
    """Serves."""
    lines = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def watch(event: str, args: tuple[object, ...]) -> None:
        if event == "sqlite3.connect" or (event == "open" and "state.db" in str(args[0])):
            os.write(lines, f"{event} {args[0]}\n".encode())

    sys.addaudithook(watch)
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    return serve_command.run(parser.parse_args(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
