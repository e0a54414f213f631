"""README's script under strict type checkers: the fluent chain keeps its type, and a misspelt choice is an error."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.docs.test_diff import DIFFS, SCRIPT, applied

# README's script is untyped in what is the user's own.
TYPED = {
    "def transform(image):": "def transform(image: Image.Image) -> torch.Tensor:",
    "from torch.utils.data import DataLoader\n": "",  # the diff leaves it, unused
    '    print(f"epoch {epoch}: loss {loss.item():.3f}")\n': "",  # an epoch without a batch has no loss
    "import torch\n": "import torch\nfrom PIL import Image\nfrom typing_extensions import assert_type\n",
}
KEEPS_ITS_TYPE = """
assert_type(dataset, InfoBatchStreamDataset)
assert_type(dataset.select(bool).rename(image="jpg").map_dict(image=str), InfoBatchStreamDataset)
assert_type(dataset.compose(list), InfoBatchStreamDataset)
assert_type(loader.update(torch.zeros(3)), torch.Tensor)
assert_type(loader.metrics(), dict[str, float])
for epoch in loader.epochs():
    assert_type(epoch, int)
plain = torch.utils.data.DataLoader(dataset, batch_size=8)
"""
MISSPELT = """
from infobatch_stream import Connection, Hard, InfoBatch, InfoBatchLoader, InfoBatchStreamDataset

dataset = InfoBatchStreamDataset("x", policy="infobatch", on_error="skip")
InfoBatchStreamDataset("x", policy="infobtach")
InfoBatchStreamDataset("x", on_error="skipp")
InfoBatchStreamDataset("x", polcy="full")
dataset.decod("pil")
dataset.shuffle(1000)
InfoBatchLoader(dataset, 8, remainder="fil")
InfoBatchLoader(dataset, 8, multiprocessing_context="frok")
InfoBatchLoader(dataset, 8).sate_dict()
Connection(if_exists="restrat")
InfoBatch(draw="exakt")
Hard(condition="lo")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts to check, and the configuration of pyright."""
    folder = tmp_path_factory.mktemp("types")
    script = applied(SCRIPT.read_text(), DIFFS[0].code)
    for before, after in TYPED.items():
        assert script.count(before) == 1
        script = script.replace(before, after)
    (folder / "right.py").write_text(script + KEEPS_ITS_TYPE)
    (folder / "wrong.py").write_text(MISSPELT)
    settings = {
        "typeCheckingMode": "strict",
        "reportUnknownMemberType": False,  # torch's own `backward`
        "extraPaths": [str(ROOT), str(ROOT / "client"), str(ROOT / "server")],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    return folder


@cache
def mypy_errors(folder: Path) -> list[str]:
    """mypy's errors in both scripts, in the project's own configuration."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary"]
    command.append("--allow-untyped-calls")  # torch's own `backward`
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), *map(str, sorted(folder.glob("*.py")))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return [line for line in done.stdout.splitlines() if "error:" in line]


@cache
def pyright_errors(folder: Path) -> list[str]:
    """pyright's, as mypy writes them."""
    pytest.importorskip("basedpyright", reason="the checker that editors have; `make lint` installs it")
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return [
        f"{Path(error['file']).name}:{error['range']['start']['line'] + 1}: error: {error['message']}"
        for error in found
        if error["severity"] == "error"
    ]


def errors_in(name: str, errors: list[str]) -> list[str]:
    """Those of one script."""
    return [line for line in errors if Path(line.split(":")[0]).name == name]


CHECKERS = pytest.mark.parametrize("errors", [mypy_errors, pyright_errors])


@CHECKERS
def test_readmes_script_is_typed(errors, folder: Path) -> None:
    assert errors_in("right.py", errors(folder)) == []


@CHECKERS
def test_each_misspelt_line_is_an_error(errors, folder: Path) -> None:
    found = {int(line.split(":")[1]) for line in errors_in("wrong.py", errors(folder))}
    lines = MISSPELT.splitlines()
    assert found == set(range(lines.index('InfoBatchStreamDataset("x", policy="infobtach")') + 1, len(lines) + 1))
