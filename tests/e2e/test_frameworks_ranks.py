"""Frameworks on two ranks, started by torchrun: the weights of one process, and resumes on both ranks alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.framework_job import ACCUMULATE
from tests.e2e.framework_task import EPOCHS, make_loader, plain_training
from tests.e2e.torchrun import torchrun

JOB = Path(__file__).with_name("framework_job.py")
NEEDS = {"accelerate_loop": "accelerate", "lightning": "lightning", "hf_trainer": "transformers", "fsdp2": "torch"}
FRAMEWORKS = sorted(NEEDS)


@pytest.fixture(scope="module")
def alone(server: Server, shards: str) -> torch.nn.Linear:
    """The model of one process that takes the batches of two ranks at once."""
    return plain_training(make_loader(server, shards, "ranks-alone"), ACCUMULATE)


def run_job(framework: str, server: Server, shards: str, run: str, folder: Path, *how: Any) -> list[dict[str, Any]]:
    pytest.importorskip(NEEDS[framework])
    ended = torchrun(JOB, framework, server.url, shards, run, folder, *how, nproc=2)
    assert ended.code == 0, ended.output
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


def numbers(found: list[dict[str, Any]], epoch: int) -> list[int]:
    return [number for rank in found for batch in rank["seen"].get(str(epoch), []) for number in batch]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_two_ranks_have_the_weights_of_one_process(
    framework: str, alone: torch.nn.Linear, server: Server, shards: str, tmp_path: Path
) -> None:
    found = run_job(framework, server, shards, f"ranks-{framework}", tmp_path, 0, "start")
    for rank in found:
        for mine, theirs in zip(rank["weights"], alone.parameters(), strict=True):
            torch.testing.assert_close(torch.tensor(mine).double(), theirs.detach(), rtol=0, atol=1e-6)
        assert {epoch: len(batches) for epoch, batches in rank["seen"].items()} == rank["lengths"]
    assert found[0]["lengths"] == found[1]["lengths"]
    assert len(found[0]["lengths"]) == EPOCHS
    assert len(set(found[0]["lengths"].values())) > 1, "some epochs were pruned"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_two_ranks_resume_inside_an_epoch(framework: str, server: Server, shards: str, tmp_path: Path) -> None:
    run = f"ranks-resume-{framework}"
    first = run_job(framework, server, shards, run, tmp_path, 8 + 3, "start")  # 8 steps in epoch 0, 3 in epoch 1
    assert sorted(first[0]["seen"]) == ["0", "1"]
    second = run_job(framework, server, shards, run, tmp_path, 0, "resume")
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
    assert torchrun(job, server.url, shards, "as-it-is", nproc=2).code == 0
    assert not np.isnan(server.scores("prepared-as-it-is")).any()
    ended = torchrun(job, server.url, shards, "prepared", nproc=2)
    assert ended.code != 0
    assert "rank 1 was given samples of epoch 0 that another rank reads" in ended.output
