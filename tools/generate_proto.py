"""Generates the Python code of proto/ in infobatch_stream/v1, or checks with `--check` that it is up to date.

    python tools/generate_proto.py            regenerate
    python tools/generate_proto.py --check    exit 1 and name the stale files if any file would change

Needs exactly the grpcio-tools version that pyproject.toml pins: other versions write different bytes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = "infobatch_stream/v1/score_service.proto"
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


def generate(folder: Path) -> list[Path]:
    """Runs protoc with output in `folder`; returns the written files, relative to it."""
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={ROOT / 'proto'}",
            f"--python_out={folder}",
            f"--pyi_out={folder}",
            f"--grpc_python_out={folder}",
            PROTO,
        ]
    )
    if status != 0:
        sys.exit(f"protoc failed on {PROTO} with status {status}")
    return [Path(PROTO.removesuffix(".proto") + suffix) for suffix in SUFFIXES]


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate infobatch_stream/v1 from proto/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is stale")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        stale = [name for name in generate(fresh) if not _same(ROOT / name, fresh / name)]
        if args.check:
            for name in stale:
                print(f"{name} is stale: run `make proto`", file=sys.stderr)
            return 1 if stale else 0
        for name in stale:
            shutil.copyfile(fresh / name, ROOT / name)
            print(f"wrote {name}")
    return 0


def _same(checked_in: Path, fresh: Path) -> bool:
    return checked_in.exists() and checked_in.read_bytes() == fresh.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
