"""README's diff turns a webdataset script into one that prunes; both versions run."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Block, all_blocks
from tests.docs.shell import environment
from tests.docs.stage import Stage

SCRIPT = ROOT / "examples" / "three_lines" / "train.py"
DIFFS = [block for block in all_blocks() if block.language == "diff" and block.page == "README.md"]
WHOLE = [block for block in all_blocks() if block.language == "diff" and block.page == "docs/pipelines.md"]


def applied(script: str, diff: str) -> str:
    """The script after the diff, whose hunks begin with a line `@@ … @@`."""
    hunks: list[list[str]] = [[]]
    for line in diff.splitlines(keepends=True):
        if line.startswith("@@"):
            hunks.append([])
        else:
            hunks[-1].append(line if line.strip() else " \n")
    for hunk in filter(None, hunks):
        assert all(line[0] in " -+" for line in hunk), hunk
        before = "".join(line[1:] for line in hunk if line[0] != "+")
        assert script.count(before) == 1, f"not in the script, or not once:\n{before}"
        script = script.replace(before, "".join(line[1:] for line in hunk if line[0] != "-"))
    return script


def run_scripts(scripts: dict[str, str], stage: Stage, folder: Path) -> dict[str, str]:
    """Runs scripts side by side in a folder with shards; name → output."""
    (folder / "data").symlink_to(stage.folder / "data")
    running = {}
    for name, text in scripts.items():
        (folder / name).write_text(text)
        running[name] = subprocess.Popen(
            [sys.executable, name], cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    outputs = {}
    for name, process in running.items():
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, f"{name}: {errors.decode()}"
        outputs[name] = output.decode()
    return outputs


@pytest.mark.parametrize("block", DIFFS, ids=str)
def test_both_versions_of_the_script_run(block: Block, stage: Stage, tmp_path: Path) -> None:
    before = SCRIPT.read_text()
    after = applied(before, block.code)
    assert "infobatch" not in before.replace("infobatch-stream", "")
    assert "wds" not in after
    for output in run_scripts({"before.py": before, "after.py": after}, stage, tmp_path).values():
        assert "epoch 9: loss " in output
    assert (tmp_path / ".infobatch").is_dir(), "the second one has pruned: it started a score server"


@pytest.mark.parametrize(
    "block",
    [pytest.param(block, marks=[pytest.mark.long] * bool(number)) for number, block in enumerate(WHOLE)],
    ids=str,
)
def test_both_versions_of_a_script_that_moves_line_by_line_run(block: Block, stage: Stage, tmp_path: Path) -> None:
    lines = [line if line.strip() else " \n" for line in block.code.splitlines(keepends=True)]
    before, after = ("".join(line[1:] for line in lines if line[0] != sign) for sign in "+-")
    assert "infobatch" not in before
    (tmp_path / "transforms.py").write_text(inspect.getsource(to_tensor))
    for output in run_scripts({"before.py": before, "after.py": after}, stage, tmp_path).values():
        assert "epoch 2: loss " in output
    assert (tmp_path / ".infobatch").is_dir()


def to_tensor(image):  # type: ignore[no-untyped-def]
    """The module that a page's script imports."""
    import numpy as np
    import torch

    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)


def test_the_diff_changes_three_lines_and_an_import() -> None:
    (block,) = DIFFS
    added = [line for line in block.code.splitlines() if line.startswith("+")]
    assert len(added) == 4
    assert sum("import" in line for line in added) == 1


def test_a_diff_that_does_not_apply_is_found() -> None:
    assert applied("a\nb\nc\n", "@@ here @@\n a\n-b\n+x\n") == "a\nx\nc\n"
    with pytest.raises(AssertionError, match="not in the script"):
        applied("a\nb\nc\n", " a\n-d\n+x\n")
