"""Tickets, batches and processes that a loader or a dataset has nothing to do with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from infobatch_stream import ConfigError, Full, InfoBatchStreamDataset, LossError, RunBusyError, Timeouts
from tests.e2e.conftest import Server
from tests.e2e.rank_processes import start_ranks
from tests.e2e.test_jobs import hold
from tests.e2e.training import make_loader, number, score


def test_a_ticket_of_another_loader(server: Server, shards: str) -> None:
    validation = make_loader(shards, None, None, 16, policy=None, epochs=None, anneal=True)
    with (
        make_loader(shards, server.url, "own-tickets", 16) as loader,
        make_loader(shards, server.url, "other-tickets", 16) as other,
    ):
        ticket, numbers = next(loader.ticketed())
        for strange in (next(other.ticketed())[0], next(validation.ticketed())[0]):
            with pytest.raises(LossError, match="the ticket is another loader's"):
                loader.update(score(numbers), batch=strange)
        loader.update(score(numbers), batch=ticket)
        assert loader.flush()
    assert server.info("own-tickets").stored_scores == 16
    assert server.info("other-tickets").stored_scores == 0


def test_a_ticket_of_a_pass_that_was_begun_again(server: Server, shards: str) -> None:
    with make_loader(shards, server.url, "old-pass", 16) as loader:
        ticket, numbers = next(loader.ticketed())
        next(loader.ticketed())
        with pytest.raises(LossError, match="or of a pass that was begun again"):
            loader.update(score(numbers), batch=ticket)


def test_a_fork_is_told_that_the_loader_is_not_its_own(server: Server, shards: str, tmp_path: Path) -> None:
    with make_loader(shards, server.url, "forked-stranger", 16) as loader:
        batches = iter(loader)
        loader.update(score(next(batches)))
        numbers = next(batches)
        if not (child := os.fork()):
            said = []
            for call in (lambda: loader.update(score(numbers)), lambda: loader.flush(1)):
                try:
                    call()
                except ConfigError as error:
                    said.append(str(error))
            (tmp_path / "said").write_text("\n".join(said))
            os._exit(0)
        os.waitpid(child, 0)
        said = (tmp_path / "said").read_text().splitlines()
        assert len(said) == 2
        assert all(f"the run is open in process {os.getpid()}, and {child} is a fork of it" in line for line in said)
        loader.update(score(numbers))
    assert server.info("forked-stranger").stored_scores == 32


def test_what_was_pushed_is_known_after_the_loader_was_closed(server: Server, shards: str) -> None:
    with make_loader(shards, server.url, "closed-metrics", 16) as loader:
        loader.update(score(next(iter(loader))))
    assert loader.metrics()["scores_pushed"] == 16
    assert loader.metrics()["scores_lost"] == 0


def make_plain(server: Server, shards: str, run: str) -> InfoBatchStreamDataset:
    return InfoBatchStreamDataset(
        shards, url=server.url, run=run, epochs=3, policy=Full(anneal=False), batch_size=16
    ).map(number)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterator_of_an_epoch_that_is_over(workers: int, server: Server, shards: str) -> None:
    with make_plain(server, shards, f"old-iterator-{workers}") as dataset:
        dataset.set_epoch(0)
        batches = iter(DataLoader(dataset, batch_size=16, num_workers=workers))
        numbers, index, weight = next(batches)
        dataset.update(score(numbers), index, weight)
        dataset.set_epoch(1)
        with pytest.raises((LossError, ConfigError), match=r"of epoch 1, which comes next|a pass that is over"):
            dataset.update(score(numbers), *next(batches)[1:])
        assert dataset.state_dict()["positions"] == 0


def test_batches_in_another_order_or_with_another_index(server: Server, shards: str) -> None:
    with make_plain(server, shards, "other-order") as dataset:
        dataset.set_epoch(0)
        batches = list(DataLoader(dataset, batch_size=16))[:3]
        for numbers, index, weight in (batches[1], (batches[0][0], (batches[0][1] + 100) % 1009, batches[0][2])):
            with pytest.raises(LossError, match="these are not the samples of batch 0 of epoch 0, which comes next"):
                dataset.update(score(numbers), index, weight)
        dataset.skip()
        numbers, index, weight = batches[1]
        dataset.update(score(numbers), index, weight)
        assert dataset.state_dict()["positions"] == 32
        with pytest.raises(LossError, match="these are not the samples of batch 2"):
            dataset.push(torch.zeros(16), batches[0][1])


def test_ranks_do_not_wait_for_a_lease_longer_than_for_each_other(server: Server, shards: str) -> None:
    holders = start_ranks(hold, 1, shards, server.url, "held-for-long")
    assert holders[0].result() == "holds it"
    hasty = Timeouts(connect_timeout_s=5, call_timeout_s=2, plan_timeout_s=5, agree_timeout_s=8)

    def agree(word: str) -> list[str]:
        return [word, word.replace('"place": [0, 0]', '"place": [1, 0]').replace('"value": [0, 0', '"value": [1, 0')]

    with (
        make_loader(
            shards, server.url, "held-for-long", 8, epochs=2, timeouts=hasty, rank=0, world_size=2, agree=agree
        ) as late,
        pytest.raises(RunBusyError, match="is held by another process"),
    ):
        next(late.epochs())


def test_starting_over_with_takeover_takes_the_run(server: Server, shards: str) -> None:
    holders = start_ranks(hold, 1, shards, server.url, "held-no-more")
    assert holders[0].result() == "holds it"
    with make_loader(shards, server.url, "held-no-more", 16, epochs=2, if_exists="restart", takeover=True) as loader:
        assert next(loader.epochs()) == 0
        holders[0].answers.send("go on")
        assert "Error" in holders[0].result()  # it can't push, and says so or counts what is lost
