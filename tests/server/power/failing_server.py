"""`infobatch serve` on a disk that can't sync any more once a file is there.

python -m tests.server.power.failing_server FILE --data-dir DIR …
"""

from __future__ import annotations

import argparse
import errno
import sys
from pathlib import Path

from infobatch_server import serve_command
from infobatch_server.store.durable import DurableStore
from tests.server.power.disk import Disk
from tests.server.power.recording import RecordingFiles, RecordingVfs, connecting


def main() -> int:
    """Serves."""
    file = Path(sys.argv[1])

    def fault(operation: str, path: Path) -> None:
        if operation.startswith("sync") and file.exists():
            raise OSError(errno.EIO, "Input/output error", str(path))

    def make(folder: Path) -> DurableStore:
        disk = Disk(folder)
        vfs = RecordingVfs(disk, fault)
        return DurableStore(folder, files=RecordingFiles(disk, fault=fault), connect=connecting(vfs))

    serve_command.DurableStore = make  # type: ignore[assignment,misc]
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    return serve_command.run(parser.parse_args(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
