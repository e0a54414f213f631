"""Checks what a wheel brings: the three packages, typed, the licence, and nothing else at the top level."""

from __future__ import annotations

import sys
import zipfile

EXPECTED = {"infobatch_stream", "infobatch_server", "infobatch_client"}

names = zipfile.ZipFile(sys.argv[1]).namelist()
packages = {name.split("/")[0] for name in names if ".dist-info/" not in name}
if packages != EXPECTED:
    sys.exit(f"the wheel brings {sorted(packages)}, not {sorted(EXPECTED)}")
missing = [f"{package}/py.typed" for package in EXPECTED if f"{package}/py.typed" not in names]
if not any(name.endswith("/licenses/LICENSE") for name in names):
    missing.append("LICENSE")
if missing:
    sys.exit(f"the wheel lacks {', '.join(missing)}")
print(f"{len(names)} files")
