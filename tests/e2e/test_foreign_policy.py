"""A policy of another distribution runs through server, loader and `policy=` as a built-in one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from infobatch_stream import ConfigError, InfoBatchStreamDataset, Random
from tests.e2e.conftest import SAMPLES, Server, serve
from tests.e2e.foreign_policy_job import EPOCHS, confidence_of, loss_of
from tests.policy_distribution import write_wheel

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SETTINGS: dict[str, Any] = {
    "ratio": "0.7",
    "margin": 0.1,
    "patience": 1,
    "label": "calm",
    "limits": [0.05, 3.0],
    "delta": "0.8",
    "prune_schedule": [[0, "0.5"], [0.5, 1]],
}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the distribution."""
    folder = tmp_path_factory.mktemp("installed")
    source = (HERE / "drift_policy.py").read_text()
    wheel = write_wheel(tmp_path_factory.mktemp("wheel"), "infobatch_drift", source, {"drift": "Drift"})
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    subprocess.run([*command, "--no-deps", "--target", str(folder), str(wheel)], check=True, timeout=120)
    return folder


def path_with(installed: Path) -> str:
    return os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(scope="session")
def drift_server(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A score server that has the distribution."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path_with(installed))
        running = serve(tmp_path_factory.mktemp("server"))
        server = next(running)
    yield server
    next(running, None)


def train(
    tmp_path: Path, path: str, shards: str, url: str, run: str, settings: dict[str, Any] | None
) -> subprocess.CompletedProcess[str]:
    """The training in a process of its own, which leaves its epochs in tmp_path/epochs.json."""
    command = [sys.executable, "-m", "tests.e2e.foreign_policy_job", shards, url, run, json.dumps(settings)]
    return subprocess.run(
        [*command, str(tmp_path / "epochs.json")],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def keep_bits(epoch: int, k: int) -> np.ndarray:
    """Whether each sample's uniform is below k/65536, by numpy's own Philox."""
    key = np.array([11, (epoch << 32) | (1 << 8)], np.uint64)
    words = np.random.Generator(np.random.Philox(key=key)).integers(0, 2**64, -(-SAMPLES // 4), np.uint64)
    lanes: np.ndarray = words.astype("<u8").view("<u2")[:SAMPLES]
    return lanes < k


def plain_epochs(settings: dict[str, Any]) -> list[list[list[float]]]:
    """What the policy means, in numpy alone: samples and weights by epoch."""
    score, before, average = (np.full(SAMPLES, np.nan) for _ in range(3))
    visits = np.zeros(SAMPLES, int)
    epochs = []
    for epoch in range(EPOCHS):
        share = 0.5 + min(epoch, EPOCHS // 2) / EPOCHS  # from 1/2 at the start to 1 at half of the epochs
        k = round(65536 * (1 - 0.7 * share))
        members = (score < average) & (np.float32(before) - np.float32(score) > np.float32(0.1)) & (visits >= 1)
        members &= (score >= 0.05) & (score <= 3)
        if epoch >= 6:  # ⌊0.8 · 8⌋
            members[:] = False
        kept = np.flatnonzero(~members | keep_bits(epoch, k))
        weight = np.where(members[kept], np.float32(65536 / k), 1.0)
        epochs.append([[int(index), float(value)] for index, value in zip(kept, weight, strict=True)])
        value = (confidence_of if settings.get("confidence") else loss_of)(epoch, SAMPLES)[kept].astype(np.float64)
        first = np.isnan(average[kept])
        average[kept] = np.where(first, value, 0.25 * value + 0.75 * average[kept])
        before[kept], score[kept] = score[kept], loss_of(epoch, SAMPLES)[kept]
        visits[kept] += 1
    return epochs


@pytest.mark.parametrize("confidence", [False, True], ids=["columns of the score", "a pushed column"])
def test_it_prunes_as_a_plain_computation_does(
    confidence: bool, drift_server: Server, installed: Path, shards: str, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "confidence": confidence}
    run = f"drift-{confidence}"
    done = train(tmp_path, path_with(installed), shards, drift_server.url, run, settings)
    assert done.returncode == 0, done.stderr
    epochs, expected = json.loads((tmp_path / "epochs.json").read_text()), plain_epochs(settings)
    assert [len(epoch) for epoch in epochs] == [len(epoch) for epoch in expected]
    assert epochs == expected
    assert len({len(epoch) for epoch in expected}) >= 4  # it does prune
    stats = drift_server.stats(run)
    assert (stats["policy"], stats["biased"]) == ("drift", False)


def test_its_name_alone_takes_its_defaults(drift_server: Server, installed: Path, shards: str, tmp_path: Path) -> None:
    done = train(tmp_path, path_with(installed), shards, drift_server.url, "drift-by-name", None)
    assert done.returncode == 0, done.stderr
    spec = drift_server.info("drift-by-name").spec
    values = {param.name: getattr(param, param.WhichOneof("value")) for param in spec.policy.params}
    assert list(values.pop("limits").values) == [0.0, 100.0]
    assert {"ratio": "0.5", "margin": 0.0, "patience": 2, "label": "drifting", "confidence": False}.items() <= (
        values.items()
    )
    assert "prune_schedule" not in values
    assert spec.delta == "0.875"


def test_a_server_without_it_says_where_to_install_it(
    server: Server, installed: Path, shards: str, tmp_path: Path
) -> None:
    done = train(tmp_path, path_with(installed), shards, server.url, "drift-elsewhere", SETTINGS)
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("infobatch_stream.errors.ConfigError: policy='drift' is none of infobatch, full, random")
    assert "must be installed where the score server runs" in error


def test_a_client_without_it_names_those_that_it_has(drift_server: Server, shards: str, tmp_path: Path) -> None:
    done = train(tmp_path, os.environ.get("PYTHONPATH", ""), shards, drift_server.url, "drift-nowhere", None)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "ConfigError: policy='drift' is none of infobatch, full, random, hard, levels"
    )


@dataclass(frozen=True, kw_only=True)
class Unregistered(Random):
    name: ClassVar[str] = "unregistered"


def test_an_object_of_an_unregistered_class_is_refused_when_the_dataset_is_made(shards: str) -> None:
    with pytest.raises(ConfigError, match=r"can't be used: policy='unregistered' is none of .*entry-point group"):
        InfoBatchStreamDataset(shards, policy=Unregistered(), epochs=10)
