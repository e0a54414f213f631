"""Lightning: automatic and manual optimisation, its prefetching, validation and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from infobatch_stream import ConfigError, InfoBatchLoader, InfoBatchStreamDataset, LossError, ProgressLR, cosine
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

pl = pytest.importorskip("lightning.pytorch")

from infobatch_client.integrations.lightning import InfoBatchDataModule  # noqa: E402

# Lightning 2.6 asks torch 2.13 in a way that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Module(pl.LightningModule):  # type: ignore[misc]
    """A linear model that notes what it was given."""

    def __init__(self, losses: Any = squared_errors) -> None:
        super().__init__()
        self.model = make_model()
        self.losses = losses
        self.seen: dict[int, list[int]] = {}
        self.lengths: list[tuple[int, int]] = []
        self.batches = 0
        self.steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        ticket, (rows, numbers) = batch
        self.note(ticket, numbers)
        return self.trainer.datamodule.update(self.losses(self.model(rows), numbers), ticket)

    def note(self, ticket: Any, numbers: torch.Tensor) -> None:
        self.batches += 1
        weights = torch.from_numpy(ticket.ticket.weight)
        self.seen.setdefault(ticket.ticket.epoch, []).extend(real_numbers(numbers, weights))

    def on_train_epoch_start(self) -> None:
        self.batches = 0

    def on_train_epoch_end(self) -> None:
        self.lengths.append((self.batches, len(self.trainer.datamodule.batches.loader)))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.steps += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LR)


class ManualModule(Module):
    """The same with optimisation by hand, over windows of two batches."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        ticket, (rows, numbers) = batch
        self.note(ticket, numbers)
        loss = self.trainer.datamodule.update(self.losses(self.model(rows), numbers), ticket)
        self.manual_backward(loss / 2)
        if self.batches % 2 == 0 or ticket.last:
            self.optimizers().step()
            self.optimizers().zero_grad()


def fit(module: Module, data: InfoBatchDataModule, folder: Path, ckpt_path: str | None = None, **settings: Any) -> Any:
    defaults = {
        "max_epochs": EPOCHS,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": bool(settings.get("callbacks")),
        "default_root_dir": folder,
    }
    trainer = pl.Trainer(**{**defaults, **settings})
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def data_module(server: Server, shards: str, run: str, **settings: Any) -> InfoBatchDataModule:
    return InfoBatchDataModule(make_loader(server, shards, run, **settings))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_weights_are_those_of_a_plain_loop(accumulate: int, server: Server, shards: str, tmp_path: Path) -> None:
    plain = plain_training(make_loader(server, shards, f"lightning-plain-{accumulate}"), accumulate)
    module = Module()
    data = data_module(server, shards, f"lightning-{accumulate}")
    fit(module, data, tmp_path, accumulate_grad_batches=accumulate)
    assert_same_weights(module.model, plain)
    assert len(module.lengths) == EPOCHS
    assert all(trained == length for trained, length in module.lengths)
    assert len({trained for trained, _ in module.lengths}) > 1, "some epochs were pruned"
    assert module.steps == sum(-(-trained // accumulate) for trained, _ in module.lengths)


def test_manual_optimisation_gives_the_same_weights(server: Server, shards: str, tmp_path: Path) -> None:
    plain = plain_training(make_loader(server, shards, "lightning-plain-manual"), 2)
    module = ManualModule()
    fit(module, data_module(server, shards, "lightning-manual"), tmp_path)
    assert_same_weights(module.model, plain)


@pytest.mark.parametrize("manual", [False, True])
def test_scores_belong_to_their_samples(manual: bool, server: Server, shards: str, tmp_path: Path) -> None:
    run = f"lightning-tie-{manual}"
    module = ManualModule(known_losses) if manual else Module(known_losses)
    settings = {} if manual else {"accumulate_grad_batches": 2}
    fit(module, data_module(server, shards, run, num_workers=2), tmp_path, **settings)
    assert_scores_are_known(server, run)


@pytest.mark.parametrize(
    ("epoch", "batches", "accumulate"),
    [(0, 5, 1), (1, 4, 2), (1, None, 1), (2, 1, 1)],
    ids=["first epoch", "pruned epoch", "after an epoch's last batch", "after the first batch"],
)
def test_a_checkpoint_in_mid_epoch_goes_on_without_loss_or_repeat(
    epoch: int, batches: int | None, accumulate: int, server: Server, shards: str, tmp_path: Path
) -> None:
    run = f"lightning-resume-{epoch}-{batches}-{accumulate}"

    class Stop(pl.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, module: Module, outputs: Any, batch: Any, batch_idx: int) -> None:
            done = batch[0].last if batches is None else batch_idx + 1 == batches
            if trainer.current_epoch == epoch and done:
                trainer.save_checkpoint(tmp_path / "stopped.ckpt")
                raise KeyboardInterrupt

    first = Module()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(
            first,
            data_module(server, shards, run),
            tmp_path,
            callbacks=[Stop()],
            enable_checkpointing=False,
            accumulate_grad_batches=accumulate,
        )
    second = Module()
    data = data_module(server, shards, run, num_workers=1, if_exists="refuse")
    fit(second, data, tmp_path, str(tmp_path / "stopped.ckpt"), accumulate_grad_batches=accumulate)
    whole = Module()
    fit(whole, data_module(server, shards, f"{run}-whole"), tmp_path, accumulate_grad_batches=accumulate)
    for number in range(EPOCHS):
        trained = first.seen.get(number, []) + second.seen.get(number, [])
        assert len(trained) == len(set(trained)), "no sample twice"
        if number <= epoch:  # the later ones' plans were drawn in another generation
            assert sorted(trained) == sorted(whole.seen[number])
    assert sorted(second.seen) == list(range(epoch if batches is not None else epoch + 1, EPOCHS))


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_a_checkpoint_between_epochs_goes_on_with_the_next(server: Server, shards: str, tmp_path: Path) -> None:
    def saver() -> Any:
        return pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)

    first = Module()
    fit(first, data_module(server, shards, "lightning-epochs"), tmp_path, max_epochs=2, callbacks=[saver()])
    second = Module()
    data = data_module(server, shards, "lightning-epochs")
    trainer = fit(second, data, tmp_path, str(tmp_path / "epoch=1.ckpt"), callbacks=[saver()])
    assert sorted(second.seen) == [2, 3, 4]
    assert all(trained == length for trained, length in second.lengths)
    assert trainer.current_epoch == EPOCHS


def test_a_checkpoint_of_the_end_has_nothing_left_to_train(server: Server, shards: str, tmp_path: Path) -> None:
    fit(Module(), data_module(server, shards, "lightning-end", epochs=3), tmp_path).save_checkpoint(
        tmp_path / "end.ckpt"
    )
    module = Module()
    data = data_module(server, shards, "lightning-end", epochs=3)
    fit(module, data, tmp_path, str(tmp_path / "end.ckpt"), max_epochs=9)
    assert module.seen == {}
    assert data.progress() == 3


def test_training_ends_with_the_schedule(server: Server, shards: str, tmp_path: Path) -> None:
    module = Module()
    fit(module, data_module(server, shards, "lightning-schedule", epochs=3), tmp_path, max_epochs=-1)
    assert sorted(module.seen) == [0, 1, 2]


def test_epochs_cut_short_are_followed_by_the_next(server: Server, shards: str, tmp_path: Path) -> None:
    module = Module()
    fit(module, data_module(server, shards, "lightning-limit"), tmp_path, limit_train_batches=3)
    assert [trained for trained, _ in module.lengths] == [3] * EPOCHS
    assert sorted(module.seen) == list(range(EPOCHS))


def test_max_steps_ends_in_mid_epoch(server: Server, shards: str, tmp_path: Path) -> None:
    module = Module()
    fit(module, data_module(server, shards, "lightning-steps"), tmp_path, max_epochs=None, max_steps=20)
    assert module.steps == 20
    assert sorted(module.seen) == [0, 1]


def test_every_validation_sees_every_sample_once(server: Server, shards: str, tmp_path: Path) -> None:
    validation = InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None, shuffle=False).map(to_row), 100)
    validated: list[int] = []

    class Data(InfoBatchDataModule):
        def val_dataloader(self) -> InfoBatchLoader:
            return validation

    class Validated(Module):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            validated.extend(real_numbers(batch[1], validation.weights()))

    module = Validated()
    data = Data(make_loader(server, shards, "lightning-validation"))
    fit(module, data, tmp_path, max_epochs=3, num_sanity_val_steps=2)
    assert validated == list(range(200)) + 3 * list(range(SAMPLES))
    assert [trained for trained, _ in module.lengths] == [length for _, length in module.lengths]


def test_a_schedule_goes_by_what_was_trained(server: Server, shards: str, tmp_path: Path) -> None:
    class Scheduled(Module):
        def on_fit_start(self) -> None:
            self.rates: list[float] = []

        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            schedule = ProgressLR(optimizer, cosine(), self.trainer.datamodule)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

        def lr_scheduler_step(self, scheduler: ProgressLR, metric: Any) -> None:
            scheduler.step()
            self.rates += scheduler.get_last_lr()

    module = Scheduled()
    fit(module, data_module(server, shards, "lightning-schedule-lr"), tmp_path)
    assert module.rates == sorted(module.rates, reverse=True)
    assert module.rates[-1] == pytest.approx(0, abs=1e-12)


def test_half_precision_losses_are_summed_in_full(server: Server, shards: str, tmp_path: Path) -> None:
    module = Module(lambda outputs, numbers: known_losses(outputs, numbers).bfloat16())
    fit(module, data_module(server, shards, "lightning-bf16"), tmp_path, precision="bf16-mixed", max_epochs=1)
    expected = known_losses(torch.zeros(SAMPLES, 1), torch.arange(SAMPLES)).bfloat16().float()
    assert server.scores("lightning-bf16").tolist() == expected.tolist()


def test_a_loader_without_tickets_never_ties_wrongly(server: Server, shards: str, tmp_path: Path) -> None:
    class Untied(Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            _, (rows, numbers) = batch
            return self.trainer.datamodule.batches.loader.update(self.losses(self.model(rows), numbers))

    with pytest.raises(LossError, match=r"2 batches await their update.*pass the ticket"):
        fit(Untied(), data_module(server, shards, "lightning-untied"), tmp_path)
    assert server.info("lightning-untied").stored_scores == 0


def test_columns_reach_the_loader(server: Server, shards: str, tmp_path: Path) -> None:
    class Margins(Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            ticket, (rows, numbers) = batch
            losses = self.losses(self.model(rows), numbers)
            return self.trainer.datamodule.update(losses, ticket, columns={"margin": losses})

    with pytest.raises(LossError, match="columns= has 'margin'; the run's policy declares no columns"):
        fit(Margins(), data_module(server, shards, "lightning-columns"), tmp_path)


def test_validating_a_checkpoint_leaves_the_training_alone(server: Server, shards: str, tmp_path: Path) -> None:
    validation = InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None, shuffle=False).map(to_row), 100)

    class Validated(Module):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.note_rows = len(batch[1])

    class Data(InfoBatchDataModule):
        def val_dataloader(self) -> InfoBatchLoader:
            return validation

    data = Data(make_loader(server, shards, "lightning-validate"))
    trainer = fit(Validated(), data, tmp_path, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    state = data.state_dict()
    trainer.validate(Validated(), datamodule=data, ckpt_path=tmp_path / "one.ckpt")
    assert data.state_dict() == state
    fresh = Data(make_loader(server, shards, "lightning-validate-first"))
    trainer.validate(Validated(), datamodule=fresh, ckpt_path=tmp_path / "one.ckpt")
    assert fresh.progress() == 0


def test_a_validation_loader_is_refused(shards: str) -> None:
    validation = InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None, shuffle=False).map(to_row), 100)
    with pytest.raises(ConfigError, match=r"a validation loader .* has nothing to update"):
        InfoBatchDataModule(validation)
