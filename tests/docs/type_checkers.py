"""mypy and pyright, each run once over a folder of scripts, with the lines of their errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

__all__ = ["mypy_errors", "pyright_errors"]


def mypy_errors(folder: Path) -> list[str]:
    """Of all scripts in a folder, "NAME.py:LINE: error: …", in the project's own configuration."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary"]
    command.append("--allow-untyped-calls")  # torch's own `backward`
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), *map(str, sorted(folder.glob("*.py")))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line.rpartition("/")[2] for line in done.stdout.splitlines() if "error:" in line]


def pyright_errors(folder: Path) -> list[str]:
    """The same by pyright, strict where a script doesn't say otherwise."""
    pytest.importorskip("basedpyright", reason="the checker that editors have; `make lint` installs it")
    settings = {
        "typeCheckingMode": "strict",
        "reportUnknownMemberType": False,  # torch's own `backward`
        "extraPaths": [str(ROOT), str(ROOT / "client"), str(ROOT / "server")],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == len(list(folder.glob("*.py"))), done.stdout
    return [
        f"{Path(error['file']).name}:{error['range']['start']['line'] + 1}: error: {error['message']}"
        for error in found["generalDiagnostics"]
        if error["severity"] == "error"
    ]
