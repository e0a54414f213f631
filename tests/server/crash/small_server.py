"""A score server as a process, with small segments and a small journal, so that each of its steps comes often.

python tests/server/crash/small_server.py DATA_DIR
"""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

from infobatch_server.process.address import Address
from infobatch_server.process.data_dir import DataDir
from infobatch_server.server import ScoreServer
from infobatch_server.store.durable import DurableStore


def main() -> None:
    """Serves until the process is killed."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(relativeCreated)d %(message)s")
    folder = Path(sys.argv[1])
    with DataDir(folder):
        store = DurableStore(
            folder, segment_samples=2**10, save_bytes=2**15, max_journal_bytes=2**19, reserve_bytes=2**16
        )
        with ScoreServer(Address("127.0.0.1", 0), store=store) as server:
            print(server.grpc_address, flush=True)
            threading.Event().wait()


if __name__ == "__main__":
    main()
