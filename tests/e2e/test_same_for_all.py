"""Whatever the number of ranks and workers: as many batches on each, every kept sample once, one global order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.rank_processes import start_ranks
from tests.e2e.same_for_all_job import CASES, EPOCHS, is_dropped, train_all
from tests.e2e.torchrun import Ended, free_port, torchrun

WORLDS = (1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long), 4)
QUICK = ("keep-10", "scored", "dropping-whole-batches")
ALL_CASES = [case if case in QUICK else pytest.param(case, marks=pytest.mark.long) for case in CASES]
JOB = Path(__file__).with_name("same_for_all_job.py")


class Trained:
    """What every rank of every world was given."""

    def __init__(self, folder: Path, train: Callable[[int, Iterable[str]], None] | None = None) -> None:
        self._folder = folder
        self._train = train
        self._trained: set[tuple[int, bool]] = set()

    def ranks(self, case: str, world: int, workers: int) -> list[Any]:
        """By rank; trains the case, and its like, if it wasn't trained in this world yet."""
        quick = case in QUICK
        if self._train is not None and (world, quick) not in self._trained:
            self._trained.add((world, quick))
            self._train(world, [name for name in CASES if (name in QUICK) == quick])
        return [np.load(self._folder / f"{case}-{world}-{workers}-{rank}.npz") for rank in range(world)]

    def global_batches(self, case: str, world: int, workers: int, epoch: int) -> list[list[int]]:
        """Rows of weight > 0 of every step, the ranks' one after the other."""
        batches: list[list[int]] = []
        for found in self.ranks(case, world, workers):
            ends = np.cumsum(found[f"sizes-{epoch}"])
            parts = np.split(found[f"numbers-{epoch}"], ends[:-1])
            batches = batches or [[] for _ in parts]
            for batch, part in zip(batches, parts, strict=True):
                batch.extend(int(number) for number in part)
        return batches


@pytest.fixture(scope="session")
def trained(server: Server, shards: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("same")
    return Trained(folder, lambda world, cases: train_on(world, shards, server, folder, None, cases))


def train_on(world: int, shards: str, server: Server, folder: Path, lanes: int | None, cases: Iterable[str]) -> None:
    """Trains the cases on `world` ranks of one node."""
    for rank in start_ranks(train_all, world, shards, server.url, str(folder), lanes, tuple(cases), timeout_s=240):
        assert rank.result(240) == "trained"
        rank.join()


@pytest.fixture(scope="session")
def on_nodes(server: Server, shards: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two nodes of two ranks each, as torchrun starts them, and one process, in two lanes both."""
    folder = tmp_path_factory.mktemp("nodes")
    lanes, cases = 2, ("scored", "dropping")
    port = str(free_port())

    def start_node(options: tuple[str, ...]) -> Ended:
        return torchrun(JOB, shards, server.url, folder, lanes, *cases, nproc=2, options=options)

    with ThreadPoolExecutor(2) as pool:
        node_options = [("--nnodes", "2", "--node-rank", str(node), "--master-addr", "127.0.0.1", "--master-port", port)
                        for node in range(2)]  # fmt: skip
        for ended in pool.map(start_node, node_options):
            assert ended.code == 0, ended.output
    train_on(1, shards, server, folder, lanes, cases)
    return Trained(folder)


def kept(trained: Trained, case: str, world: int, workers: int, epoch: int) -> list[int]:
    """The plan's samples but those that the stage drops."""
    plan = trained.ranks(case, world, workers)[0][f"plan-{epoch}"].tolist()
    return [sample for sample in plan if not (CASES[case][3] and is_dropped(f"{sample:06d}", epoch))]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", ALL_CASES)
def test_every_kept_sample_comes_exactly_once_and_ranks_have_as_many_batches(
    case: str, world: int, trained: Trained
) -> None:
    for workers in range(4):
        for epoch in range(EPOCHS):
            batches = trained.global_batches(case, world, workers, epoch)  # fails where the ranks' counts differ
            given = [number for batch in batches for number in batch]
            assert sorted(given) == kept(trained, case, world, workers, epoch)
            for rank in trained.ranks(case, world, workers):
                assert rank[f"positions-{epoch}"] == len(rank[f"plan-{epoch}"])  # dropped ones count as consumed


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", ALL_CASES)
def test_the_order_is_the_same_for_any_number_of_workers(case: str, world: int, trained: Trained) -> None:
    for epoch in range(EPOCHS):
        first = trained.global_batches(case, world, 0, epoch)
        for workers in (1, 2, 3):
            assert trained.global_batches(case, world, workers, epoch) == first


@pytest.mark.parametrize("world", WORLDS[1:])
@pytest.mark.parametrize("case", [case for case in ALL_CASES if case != "dropping-whole-batches"])
def test_global_batches_are_the_same_for_any_number_of_ranks(case: str, world: int, trained: Trained) -> None:
    for epoch in range(EPOCHS):
        assert trained.global_batches(case, world, 0, epoch) == trained.global_batches(case, 1, 0, epoch)


@pytest.mark.parametrize("case", ["scored", "dropping"])
def test_two_nodes_have_the_global_batches_of_one_process(case: str, on_nodes: Trained) -> None:
    for workers in range(4):
        for epoch in range(EPOCHS):
            batches = on_nodes.global_batches(case, 4, workers, epoch)
            assert batches == on_nodes.global_batches(case, 1, workers, epoch)
            assert sorted(number for batch in batches for number in batch) == kept(on_nodes, case, 4, workers, epoch)


@pytest.mark.long
def test_the_cases_are_what_they_say(trained: Trained) -> None:
    def share(case: str) -> float:
        return len(trained.ranks(case, 1, 0)[0]["plan-1"]) / SAMPLES

    assert 0.05 < share("keep-10") < 0.15
    assert 0.55 < share("keep-60") < 0.65
    assert share("keep-100") == 1
    assert 0.4 < share("scored") < 0.8
    assert any(not batch for batch in trained.global_batches("dropping-whole-batches", 1, 0, 0))


@pytest.mark.parametrize("world", WORLDS)
def test_scores_of_all_ranks_arrive(world: int, trained: Trained, server: Server) -> None:
    plans = [len(trained.ranks("scored", world, 2)[0][f"plan-{epoch}"]) for epoch in range(EPOCHS)]
    expected = (np.arange(SAMPLES) * 37 % 101).astype(np.float32)
    np.testing.assert_array_equal(server.scores(f"scored-{world}-2-None"), expected)
    info = server.info(f"scored-{world}-2-None")
    assert info.stored_scores == sum(plans)
    assert info.barrier_timeouts == 0
    assert not info.job  # every rank has given its part of the lease back
