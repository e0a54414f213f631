"""The examples of frameworks, as their users start them: they learn, save, and go on from what they saved."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infobatch_client.demo.shards import make_shards
from tests.e2e.conftest import Server
from tests.e2e.torchrun import torchrun

EXAMPLES = Path(__file__).parents[2] / "examples" / "frameworks"
NEEDS = {"accelerate_loop": "accelerate", "lightning_module": "lightning", "hf_trainer": "transformers"}
RESULT = re.compile(r"^\w+: accuracy=(\d\.\d+) steps=(\d+)$", re.MULTILINE)


def result(output: str) -> tuple[float, int]:
    """The accuracy and steps of the one result line."""
    ((accuracy, steps),) = RESULT.findall(output)
    return float(accuracy), int(steps)


def start(script: Path, *args: object, nproc: int, cwd: Path) -> str:
    if nproc > 1:
        ended = torchrun(script, *args, nproc=nproc)
        assert ended.code == 0, ended.output
        return ended.output
    command = [sys.executable, str(script), *map(str, args)]
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("example", "nproc"),
    [
        pytest.param("accelerate_loop", 1, marks=pytest.mark.long),
        pytest.param("lightning_module", 1, marks=pytest.mark.long),
        pytest.param("hf_trainer", 1, marks=pytest.mark.long),
        ("fsdp2", 2),
    ],
)
def test_an_example_learns_and_finds_nothing_left_to_do(
    example: str, nproc: int, server: Server, tmp_path: Path
) -> None:
    pytest.importorskip(NEEDS.get(example, "torch"))
    (tmp_path / "data").mkdir()
    make_shards(tmp_path / "data")
    asked = ["--data", tmp_path / "data", "--url", server.url, "--run-name", f"example-{example}", "--epochs", 4]
    asked += ["--checkpoint", tmp_path / "checkpoint"]
    first = result(start(EXAMPLES / f"{example}.py", *asked, nproc=nproc, cwd=tmp_path))
    assert first[0] > 0.7
    assert first[1] > 50
    again = result(start(EXAMPLES / f"{example}.py", *asked, nproc=nproc, cwd=tmp_path))
    assert again[0] == first[0], "the model is the one that was saved"
    assert again[1] in (0, first[1]), "and the run is over"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert path.read_text().count("\n") < (80 if path.name != "digits.py" else 100)
