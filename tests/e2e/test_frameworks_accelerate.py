"""Accelerate: an unprepared loader, batches with tickets, its accumulation and its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from infobatch_stream import ConfigError, InfoBatchLoader, InfoBatchStreamDataset, LossError
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.framework_task import (
    EPOCHS,
    LR,
    assert_same_weights,
    assert_scores_are_known,
    known_losses,
    make_loader,
    make_model,
    plain_training,
    real_numbers,
    squared_errors,
    to_row,
)

accelerate = pytest.importorskip("accelerate")

from infobatch_client.integrations.accelerate import AcceleratedBatches  # noqa: E402


@pytest.fixture(autouse=True)
def _own_state() -> Iterator[None]:
    yield
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


class Training:
    """An Accelerate loop that takes every batch one ahead."""

    def __init__(self, loader: InfoBatchLoader, *, accumulate: int = 1, losses: Any = squared_errors) -> None:
        self.accelerator = accelerate.Accelerator(gradient_accumulation_steps=accumulate, cpu=True)
        self.batches = AcceleratedBatches(self.accelerator, loader)
        self.accelerator.register_for_checkpointing(self.batches)
        model = make_model()
        self.model, self.optimizer = self.accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=LR))
        self.losses = losses
        self.lengths: list[int] = []
        self.steps = 0
        self.seen: dict[int, list[int]] = {}

    def run(self, *, stop_at: int | None = None) -> None:
        for epoch in self.batches.epochs():
            self.lengths.append(0)
            for ticket, (rows, numbers) in self.batches:
                with self.accelerator.accumulate(self.model):
                    loss = self.batches.update(self.losses(self.model(rows), numbers), ticket)
                    self.accelerator.backward(loss)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                self.steps += self.accelerator.sync_gradients
                self.lengths[-1] += 1
                weights = torch.from_numpy(ticket.ticket.weight)
                self.seen.setdefault(epoch, []).extend(real_numbers(numbers, weights))
                if self.steps == stop_at:
                    return
            assert self.lengths[-1] == len(self.batches.loader)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_weights_are_those_of_a_plain_loop(accumulate: int, server: Server, shards: str) -> None:
    plain = plain_training(make_loader(server, shards, f"accelerate-plain-{accumulate}"), accumulate)
    training = Training(make_loader(server, shards, f"accelerate-{accumulate}"), accumulate=accumulate)
    training.run()
    training.batches.close()
    assert_same_weights(training.accelerator.unwrap_model(training.model), plain)
    assert len(training.lengths) == EPOCHS
    assert min(training.lengths) < max(training.lengths), "some epochs were pruned"
    assert training.steps == sum(-(-length // accumulate) for length in training.lengths)


def test_scores_belong_to_their_samples(server: Server, shards: str) -> None:
    training = Training(make_loader(server, shards, "accelerate-tie", num_workers=2), accumulate=2, losses=known_losses)
    training.run()
    training.batches.close()
    assert_scores_are_known(server, "accelerate-tie")


def test_a_checkpoint_in_mid_epoch_goes_on_without_loss_or_repeat(server: Server, shards: str, tmp_path: Path) -> None:
    first = Training(make_loader(server, shards, "accelerate-resume"))
    first.run(stop_at=16 + 3)  # inside epoch 1
    first.accelerator.save_state(str(tmp_path))
    first.batches.close()
    second = Training(make_loader(server, shards, "accelerate-resume", num_workers=1))
    second.accelerator.load_state(str(tmp_path))
    assert_same_weights(second.model, first.model, 0)
    assert second.batches.progress() == first.batches.progress()
    epochs = second.batches.epochs()
    assert next(epochs) == 1
    plan = second.batches.loader.plan
    rest = [
        number
        for ticket, (_, numbers) in second.batches
        for number in real_numbers(numbers, torch.from_numpy(ticket.ticket.weight))
        if second.batches.skip(ticket) is None
    ]
    second.batches.close()
    assert sorted(first.seen[1] + rest) == plan.kept_between(0, SAMPLES).tolist()


def test_a_batch_taken_but_not_trained_is_still_to_come(server: Server, shards: str) -> None:
    training = Training(make_loader(server, shards, "accelerate-ahead"))
    next(training.batches.epochs())
    taken = iter(training.batches)
    before = training.batches.state_dict()
    ticket, (rows, numbers) = next(taken)
    next(taken)
    assert training.batches.state_dict() == before
    training.batches.update(squared_errors(training.model(rows), numbers), ticket)
    assert training.batches.state_dict()["positions"] == len(rows)
    assert training.batches.progress() == len(rows) / SAMPLES
    training.batches.close()


class Batches(torch.utils.data.IterableDataset[Any]):
    """A loader's batches without their tickets, as somebody might hand them to Accelerate."""

    def __init__(self, loader: InfoBatchLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def test_a_prepared_loader_without_tickets_is_told_that_it_runs_ahead(server: Server, shards: str) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    loader = make_loader(server, shards, "accelerate-prepared")
    prepared = accelerator.prepare(torch.utils.data.DataLoader(Batches(loader), batch_size=None))
    rows, numbers = next(iter(prepared))
    with pytest.raises(LossError, match=r"2 batches await their update.*pass the ticket"):
        loader.update(squared_errors(make_model()(rows), numbers))
    loader.close()
    assert server.info("accelerate-prepared").stored_scores == 0


def test_accelerates_own_skipping_is_refused(server: Server, shards: str) -> None:
    training = Training(make_loader(server, shards, "accelerate-skip"))
    with pytest.raises(AttributeError, match="dataset"):
        accelerate.skip_first_batches(training.batches, 3)


def test_what_is_no_ticket_and_what_trains_nothing_is_refused(server: Server, shards: str) -> None:
    training = Training(make_loader(server, shards, "accelerate-wrong"))
    next(training.batches.epochs())
    ticket, (rows, numbers) = next(iter(training.batches))
    losses = squared_errors(training.model(rows), numbers)
    with pytest.raises(LossError, match="Ticket is not a ticket: pass the one that came beside the batch"):
        training.batches.update(losses, ticket.ticket)
    with pytest.raises(LossError, match="columns= has 'margin'; the run's policy declares no columns"):
        training.batches.update(losses, ticket, columns={"margin": losses})
    training.batches.close()
    validation = InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None, shuffle=False).map(to_row), 64)
    with pytest.raises(ConfigError, match=r"a validation loader .* has nothing to update"):
        AcceleratedBatches(training.accelerator, validation)
    with pytest.raises(ConfigError, match="loader is a list; pass an InfoBatchLoader"):
        AcceleratedBatches(training.accelerator, [])  # type: ignore[arg-type]
