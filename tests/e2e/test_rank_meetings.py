"""When ranks ask each other: at the start of an epoch, and at no other time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch.utils.data import DataLoader

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.training import make_loader, number, score, train_pass
from tests.e2e.two_ranks import TwoRanks

EPOCHS = 3


def ask_of_one_rank(loader: InfoBatchLoader) -> None:
    """What a script logs and saves on rank 0 alone. A meeting would wait for the other rank in vain."""
    assert len(loader) > 0
    assert 0 <= loader.progress() <= EPOCHS
    assert loader.metrics()["epoch"] >= 0
    assert loader.state_dict()["positions"] >= 0
    assert loader.grad_scale >= 1
    assert loader.plan.kept > 0


def test_one_rank_alone_may_ask_for_all_but_an_epoch(server: Server, shards: str, run: str) -> None:
    ranks = TwoRanks()

    def train(rank: int, agree: Callable[[str], list[str]]) -> list[int]:
        seen, opened = [], []
        with make_loader(shards, server.url, run, 16, epochs=EPOCHS, rank=rank, world_size=2, agree=agree) as loader:
            for _ in loader.epochs():
                opened.append(ranks.meetings[rank])
                for step, numbers in enumerate(loader):
                    loader.update(score(numbers))
                    seen += numbers[loader.weights() > 0].tolist()
                    if rank == 0 and step in (0, len(loader) - 1):
                        ask_of_one_rank(loader)
                if rank == 0:
                    ask_of_one_rank(loader)
                assert ranks.meetings[rank] == opened[-1], "nothing during an epoch"
            if rank == 0:
                assert loader.progress() == EPOCHS
                assert loader.metrics()["scores_lost"] == loader.state_dict()["epoch"] - EPOCHS == 0
            assert ranks.meetings[rank] == opened[-1], "nothing after the last one"
        assert opened == sorted(set(opened)), "each epoch begins with a meeting"
        return seen

    first, second = (rank.result() for rank in ranks.run(train))
    assert set(first + second) == set(range(SAMPLES))
    assert ranks.meetings[0] == ranks.meetings[1]


def never(text: str) -> list[str]:
    raise AssertionError(f"a rank has asked the others: {text}")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("plain", [False, True])
def test_validation_asks_nobody_and_each_rank_reads_its_part(plain: bool, workers: int, shards: str) -> None:
    seen: list[int] = []
    for rank in range(2):
        choice: dict[str, Any] = {"rank": rank, "world_size": 2, "agree": never}
        dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False, batch_size=16 if plain else None)
        dataset = dataset.map(number)
        for _ in range(1 + rank):  # one rank evaluates more often than the other
            if plain:
                dataset.set_ranks(**choice)
                batches = [(numbers, weight) for numbers, _, weight in DataLoader(dataset, 16, num_workers=workers)]
            else:
                with InfoBatchLoader(dataset, 16, workers, **choice) as loader:
                    batches = [(numbers, loader.weights()) for numbers in loader]
            found = [int(value) for numbers, weight in batches for value in numbers[weight > 0]]
        seen += found
    assert sorted(seen) == list(range(SAMPLES))


def test_a_pass_that_both_ranks_leave_at_one_batch_needs_no_word_until_the_next(
    server: Server, shards: str, run: str
) -> None:
    ranks = TwoRanks()

    def train(rank: int, agree: Callable[[str], list[str]]) -> tuple[int, int]:
        with make_loader(shards, server.url, run, 16, epochs=EPOCHS, rank=rank, world_size=2, agree=agree) as loader:
            epochs = loader.epochs()
            next(epochs)
            before = ranks.meetings[rank]
            train_pass(loader, 3)
            left = ranks.meetings[rank] - before
            next(epochs)
            return left, ranks.meetings[rank] - before

    for rank in ranks.run(train):
        left, next_opened = rank.result()
        assert left == 0 < next_opened
