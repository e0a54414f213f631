"""The CIFAR-10 example on a handful of random images: it trains, stops, goes on and says what it did."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.e2e.torchrun import torchrun

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10"
NUM_TRAIN = 80
FIXED = ("--data", "data", "--model", "small", "--batch-size", "16", "--workers", "0")
STOPPED_AT_STEP_8 = f"""
import sys
sys.path.insert(0, {str(EXAMPLE)!r})
import train

original = train.Training.step

def interrupted(self, images, labels):
    if self.history.step == 8:
        raise InterruptedError
    original(self, images, labels)

train.Training.step = interrupted
train.main()
"""


def write_shard(path: Path, count: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    with tarfile.open(path, "w") as shard:
        for number in range(count):
            png = io.BytesIO()
            Image.fromarray(images[number]).save(png, format="PNG")
            for extension, content in (("png", png.getvalue()), ("cls", str(number % 10).encode())):
                member = tarfile.TarInfo(f"{seed}-{number:04d}.{extension}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example's `train` module, in a folder of its own with shards in ./data."""
    (tmp_path / "data").mkdir()
    for number in range(2):
        write_shard(tmp_path / "data" / f"train-{number:04d}.tar", NUM_TRAIN // 2, seed=number)
    write_shard(tmp_path / "data" / "test-0000.tar", 30, seed=9)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLE)
    for name in ("augment", "checkpoint", "model", "ranks", "train"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return import_module("train")


@pytest.fixture
def run_example(train: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*options: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["train.py", *FIXED, *options])
        train.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return result

    return run


def on_two_ranks(*options: str, script: Path = EXAMPLE / "train.py", code: int = 0) -> list[str]:
    """The lines that the example printed under torchrun."""
    ended = torchrun(script, *FIXED, *options, nproc=2)
    assert (ended.code == 0) == (code == 0), ended.output
    return ended.output.splitlines()


def result_in(lines: list[str]) -> dict[str, Any]:
    """The one line of JSON."""
    (line,) = [line for line in lines if line.startswith("{")]
    result: dict[str, Any] = json.loads(line)
    return result


def test_the_last_line_is_the_result(run_example: Any) -> None:
    result = run_example("--policy", "random", "--epochs", "3", "--delta", "0.7")
    assert result["policy"] == "random"
    assert result["args"]["epochs"] == 3
    assert len(result["accuracies"]) == 3
    assert result["accuracy"] == result["accuracies"][-1]
    assert result["samples_trained"] == round(sum(result["kept_shares"]) * NUM_TRAIN)
    assert result["kept_shares"][0] < 1
    assert result["kept_shares"][2] == 1


def test_an_interrupted_training_goes_on_without_loss_or_repetition(
    train: Any, run_example: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--policy", "full", "--epochs", "3", "--url", server.url]
    original = train.Training.step

    def interrupted(self: Any, images: Any, labels: Any) -> None:
        if self.history.step == 8:
            raise InterruptedError
        original(self, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(train.Training, "step", interrupted)
        with pytest.raises(InterruptedError):
            run_example(*options, "--checkpoint", "a.pt", "--checkpoint-every", "7")
    result = run_example(*options, "--resume", "a.pt")
    assert result["samples_trained"] == 3 * NUM_TRAIN
    assert result["steps"] == 15
    assert len(result["accuracies"]) == 3


def test_a_folder_without_shards_is_told_so(train: Any, run_example: Any) -> None:
    for shard in Path("data").glob("test-*.tar"):
        shard.unlink()
    with pytest.raises(SystemExit, match=r"no test-\*\.tar in data"):
        run_example()


@pytest.mark.parametrize("policy", ["random", pytest.param("full", marks=pytest.mark.long)])
def test_two_ranks_train_the_samples_of_one(run_example: Any, policy: str) -> None:
    options = ["--policy", policy, "--epochs", "3", "--delta", "0.7", "--seed", "3"]
    alone = run_example(*options)
    lines = on_two_ranks(*options)
    together = result_in(lines)
    assert (alone["ranks"], together["ranks"]) == (1, 2)
    for figure in ("samples_trained", "kept_shares", "steps"):
        assert together[figure] == alone[figure], figure
    assert all(round(30 * share, 6).is_integer() for share in together["accuracies"]), "each test sample counts once"
    assert sum("samples trained, accuracy" in line for line in lines) == 3, "one rank prints"


def test_two_ranks_go_on_where_one_stopped(
    train: Any, run_example: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--policy", "full", "--epochs", "3", "--url", server.url]
    original = train.Training.step

    def interrupted(self: Any, images: Any, labels: Any) -> None:
        if self.history.step == 8:
            raise InterruptedError
        original(self, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(train.Training, "step", interrupted)
        with pytest.raises(InterruptedError):
            run_example(*options, "--checkpoint", "a.pt", "--checkpoint-every", "7")
    result = result_in(on_two_ranks(*options, "--resume", "a.pt"))
    assert (result["samples_trained"], result["steps"], len(result["accuracies"])) == (3 * NUM_TRAIN, 15, 3)


@pytest.mark.long
def test_one_rank_goes_on_where_two_stopped(run_example: Any, server: Any) -> None:
    options = ["--policy", "full", "--epochs", "3", "--url", server.url]
    Path("stopped.py").write_text(STOPPED_AT_STEP_8)
    lines = on_two_ranks(*options, "--checkpoint", "a.pt", "--checkpoint-every", "7", script=Path("stopped.py"), code=1)
    assert any("InterruptedError" in line for line in lines)
    result = run_example(*options, "--resume", "a.pt")
    assert (result["samples_trained"], result["steps"], len(result["accuracies"])) == (3 * NUM_TRAIN, 15, 3)


def test_a_batch_that_the_ranks_cannot_share_is_told_so(train: Any) -> None:
    lines = on_two_ranks("--batch-size", "15", code=1)
    assert any("--batch-size must be a multiple of the number of ranks, 2; got 15" in line for line in lines)
