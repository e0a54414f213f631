"""Frameworks on two ranks, started by torchrun: the weights of one process, and resumes on both ranks alike."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.framework_job import ACCUMULATE, IMPORTS
from tests.e2e.framework_task import EPOCHS, make_loader, plain_training
from tests.e2e.torchrun import free_port, torchrun

JOB = Path(__file__).with_name("framework_job.py")
NEEDS = {"accelerate_loop": "accelerate", "lightning": "lightning", "hf_trainer": "transformers", "fsdp2": "torch"}
FRAMEWORKS = sorted(NEEDS)


@pytest.fixture(scope="session")
def alone(server: Server, shards: str) -> torch.nn.Linear:
    """The model of one process that takes the batches of two ranks at once."""
    return plain_training(make_loader(server, shards, "ranks-alone"), ACCUMULATE)


@pytest.fixture(scope="session")
def trained(server: Server, shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every framework that is installed has written down: whole trainings, and one that stops and is resumed."""
    folder = tmp_path_factory.mktemp("frameworks")
    installed = [name for name in FRAMEWORKS if find_spec(NEEDS[name])]
    trainings = [f"{name}-{kind}:{free_port()}" for name in installed for kind in ("whole", "stopped", "resumed")]
    imports = tuple(IMPORTS[name] for name in installed if name in IMPORTS)
    ended = torchrun(JOB, server.url, shards, folder, *trainings, nproc=2, imports=imports)
    assert ended.code == 0, ended.output
    return folder


def results(framework: str, kind: str, trained: Path) -> list[dict[str, Any]]:
    """What both ranks wrote down."""
    pytest.importorskip(NEEDS[framework])
    folder = trained / framework
    exits = [(folder / f"{kind}-{rank}.exit").read_text() for rank in range(2)]
    assert exits == ["0", "0"], "\n\n".join((folder / f"{kind}-{rank}.log").read_text() for rank in range(2))
    return [json.loads((folder / f"{kind}-{rank}.json").read_text()) for rank in range(2)]


def numbers(found: list[dict[str, Any]], epoch: int) -> list[int]:
    return [number for rank in found for batch in rank["seen"].get(str(epoch), []) for number in batch]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_two_ranks_have_the_weights_of_one_process(framework: str, alone: torch.nn.Linear, trained: Path) -> None:
    found = results(framework, "whole", trained)
    for rank in found:
        for mine, theirs in zip(rank["weights"], alone.parameters(), strict=True):
            torch.testing.assert_close(torch.tensor(mine).double(), theirs.detach(), rtol=0, atol=1e-6)
        assert {epoch: len(batches) for epoch, batches in rank["seen"].items()} == rank["lengths"]
    assert found[0]["lengths"] == found[1]["lengths"]
    assert len(found[0]["lengths"]) == EPOCHS
    assert len(set(found[0]["lengths"].values())) > 1, "some epochs were pruned"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_two_ranks_resume_inside_an_epoch(framework: str, trained: Path) -> None:
    first = results(framework, "stopped", trained)
    assert sorted(first[0]["seen"]) == ["0", "1"]
    second = results(framework, "resumed", trained)
    assert sorted(second[0]["seen"]) == ["1", "2", "3", "4"]
    for epoch in range(EPOCHS):
        trained = numbers(first, epoch) + numbers(second, epoch)
        assert len(trained) == len(set(trained)), "no sample twice"
    full = [epoch for epoch in range(EPOCHS) if len(numbers(first, epoch) + numbers(second, epoch)) == SAMPLES]
    assert full == [0, EPOCHS - 1], "the others are pruned"
    resumed = first[0]["lengths"]["1"]
    assert len(first[0]["seen"]["1"]) + len(second[0]["seen"]["1"]) == resumed, "as long as it would have been"


def test_a_prepared_dataloader_that_deals_batches_out_again_is_refused(server: Server, shards: str) -> None:
    pytest.importorskip("accelerate")
    job = JOB.with_name("prepared_job.py")
    ended = torchrun(job, server.url, shards, "as-it-is", "prepared", nproc=2, imports=("accelerate",))
    assert "as-it-is: trained" in ended.output
    assert not np.isnan(server.scores("prepared-as-it-is")).any()
    assert ended.code != 0
    assert "prepared: trained" not in ended.output
    assert "rank 1 has received samples of epoch 0 that another rank reads" in ended.output
