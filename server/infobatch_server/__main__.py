"""`python -m infobatch_server`: the same as `infobatch serve`."""

from __future__ import annotations

import argparse
import sys

from infobatch_server import serve_command
from infobatch_stream.errors import InfoBatchError

__all__ = ["main"]


def main() -> int:
    """Runs the command line; returns 2, with one line on stderr, after an `InfoBatchError`."""
    parser = argparse.ArgumentParser(prog="python -m infobatch_server", description=serve_command.HELP)
    serve_command.add_arguments(parser)
    try:
        return serve_command.run(parser.parse_args())
    except InfoBatchError as error:
        print(f"infobatch: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
