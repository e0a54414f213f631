"""A plain DataLoader on two ranks: the global batches of one process, and a resume on one rank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.plain_ranks_job import GLOBAL_BATCH, make_dataset, score
from tests.e2e.torchrun import torchrun

JOB = Path(__file__).with_name("plain_ranks_job.py")
STOP_AT = 5


@pytest.fixture(scope="session")
def given(server: Server, shards: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(world, workers) → what each rank was given."""
    found = {}
    for world in (1, 2):
        folder = tmp_path_factory.mktemp(f"plain-{world}")
        ended = torchrun(JOB, shards, server.url, folder, STOP_AT, nproc=world)
        assert ended.code == 0, ended.output
        for workers in (0, 1, 2):
            found[world, workers] = [
                json.loads((folder / f"{workers}-{rank}.json").read_text()) for rank in range(world)
            ]
    return found


def steps(ranks: list[Any], name: str) -> list[list[int]]:
    """The real rows of every step, the ranks' one after the other."""
    parts = zip(*(rank[name] for rank in ranks), strict=True)
    return [[sample for part in step for sample in part if sample >= 0] for step in parts]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("name", ["0", "1", "validation"])
def test_ranks_share_the_batches_of_one_process(workers: int, name: str, given: Any) -> None:
    found = steps(given[2, workers], name)
    assert found == steps(given[1, 0], name) == steps(given[1, workers], name)
    if name != "1":
        assert sorted(sample for step in found for sample in step) == list(range(SAMPLES))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_two_ranks_stop_and_one_goes_on(workers: int, given: Any, server: Server, shards: str) -> None:
    first, second = given[2, workers]
    assert first["state"] == second["state"]
    with make_dataset(shards, server.url, f"plain-ranks-2-{workers}", 1) as dataset:
        dataset.load_state_dict(first["state"])
        dataset.set_epoch(1)
        seen = [sample for step in steps(given[2, workers], "1") for sample in step]
        for numbers, index, weight in DataLoader(dataset, batch_size=GLOBAL_BATCH, num_workers=2 - workers):
            dataset.update(score(numbers), index, weight)
            seen += index[index >= 0].tolist()
        assert sorted(seen) == dataset.plan.kept_between(0, SAMPLES).tolist()
