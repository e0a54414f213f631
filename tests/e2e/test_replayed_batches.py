"""Loops that get a batch again after its pass, from something that keeps batches: refused, not counted as another's."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset, LossError
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.training import make_loader, number, score

OVER = "the pass over epoch 0 is over"
EXPECTED = score(torch.arange(SAMPLES)).numpy()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cycle_over_the_loader_ends_with_the_epoch(workers: int, server: Server, shards: str) -> None:
    run = f"cycle-{workers}"
    with make_loader(shards, server.url, run, 64, num_workers=workers) as loader:

        def train() -> None:
            for numbers in itertools.cycle(loader):
                loader.update(score(numbers))

        with pytest.raises(LossError, match=OVER):
            train()
        assert loader.flush()
        assert np.array_equal(server.scores(run), EXPECTED)
        loader.set_epoch(1)  # and the next one is as if nothing had happened
        for numbers in loader:
            loader.update(score(numbers))


CALLS: dict[str, Any] = {
    "update": lambda loader, losses, ticket: loader.update(losses, batch=ticket),
    "push": lambda loader, losses, ticket: loader.push(losses, batch=ticket),
    "skip": lambda loader, _, ticket: loader.skip(ticket),
}


@pytest.mark.parametrize("call", CALLS)
def test_tickets_that_come_a_second_time_are_refused(call: str, server: Server, shards: str) -> None:
    run = f"cycle-ticketed-{call}"
    with make_loader(shards, server.url, run, 64) as loader:
        steps = []

        def train() -> None:
            for ticket, numbers in itertools.cycle(loader.ticketed()):
                CALLS[call](loader, score(numbers), ticket)
                steps.append(ticket.step)

        with pytest.raises(LossError, match=OVER):
            train()
        assert steps == list(range(16))


@pytest.mark.parametrize("call", ["update", "push", "weights"])
def test_a_pass_that_is_over_has_no_present_batch(call: str, server: Server, shards: str) -> None:
    with make_loader(shards, server.url, f"over-{call}", 64) as loader:
        for numbers in loader:
            loader.update(score(numbers))
        with pytest.raises(LossError, match=OVER):
            getattr(loader, call)(*([] if call == "weights" else [score(numbers)]))
        loader.skip()  # what awaits its update: nothing


def test_a_second_update_of_the_last_batch_comes_before_the_end(server: Server, shards: str) -> None:
    with make_loader(shards, server.url, "sam-last", 64) as loader:
        for numbers in loader:
            loader.update(torch.zeros(64))
            loader.update(score(numbers))
        assert loader.flush()
        assert np.array_equal(server.scores("sam-last"), EXPECTED)


def test_batches_that_are_held_are_updated_again_by_their_tickets(server: Server, shards: str) -> None:
    """A closure over the whole epoch, as LBFGS calls it."""
    with make_loader(shards, server.url, "batches-held", 64) as loader:
        held = list(loader.ticketed())
        for factor in (3, 2, 1):
            for ticket, numbers in held:
                loader.update(factor * score(numbers), batch=ticket)
        assert loader.flush()
        assert np.array_equal(server.scores("batches-held"), EXPECTED)
        loader.set_epoch(1)
        with pytest.raises(LossError, match="the ticket is of epoch 0; epoch 1 is open"):
            loader.update(score(held[0][1]), batch=held[0][0])


def test_a_list_of_batches_needs_tickets(server: Server, shards: str) -> None:
    with make_loader(shards, server.url, "list", 64) as loader:
        with pytest.raises(LossError, match="16 batches await their update"):
            loader.update(score([*loader][-1]))
        loader.skip()


def test_a_list_of_one_batch_is_updated_once(server: Server, shards: str) -> None:
    with make_loader(shards, server.url, "list-of-one", SAMPLES) as loader:
        (numbers,) = loader
        loader.update(score(numbers))
        with pytest.raises(LossError, match=OVER):
            loader.update(score(numbers))


def test_a_cycle_over_a_part_of_a_pass_warns(server: Server, shards: str) -> None:
    """The loader isn't asked for the batches that come again: they look like a second update of the last one."""
    with make_loader(shards, server.url, "cycle-part", 64) as loader:
        some = itertools.cycle(itertools.islice(loader, 3))
        for _ in range(3):
            loader.update(score(next(some)))
        with pytest.warns(UserWarning, match="batch 2 of epoch 0 is updated again, as none before it was"):
            loader.update(score(next(some)))


def test_a_kept_iterator_of_an_earlier_epoch_is_over(server: Server, shards: str) -> None:
    with make_loader(shards, server.url, "kept", 64) as loader:
        loader.set_epoch(0)
        kept = iter(loader)
        loader.update(score(next(kept)))
        loader.set_epoch(1)
        with pytest.raises(Exception, match="this iterator is of a pass that is over"):
            next(kept)
        with pytest.raises(LossError, match="weights\\(\\) before the first batch"):
            loader.weights()


def test_weights_of_validation_batches_that_come_again_are_refused(shards: str) -> None:
    with InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None).map(number), 64) as loader:
        seen = []

        def validate() -> None:
            for _ in itertools.cycle(loader):
                seen.append(loader.weights().sum().item())

        with pytest.raises(LossError, match=OVER):
            validate()
        assert sum(seen) == SAMPLES
        (ticket, _), *_ = loader.ticketed()
        assert loader.weights(ticket).tolist() == [1.0] * 64
