"""HF Trainer: windows of micro-batches taken ahead, epochs of different lengths, its schedules and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from infobatch_stream import ConfigError, InfoBatchLoader, InfoBatchStreamDataset, LossError, StateError
from tests.e2e.conftest import Server
from tests.e2e.framework_task import (
    BATCH_SIZE,
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

transformers = pytest.importorskip("transformers")

from infobatch_client.integrations.transformers import InfoBatchTrainer  # noqa: E402


def to_inputs(sample: dict[str, Any]) -> dict[str, Any]:
    rows, number = to_row(sample)
    return {"rows": rows, "numbers": number}


class Linear(torch.nn.Module):
    """The model that all tests train, as a Trainer calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = make_model()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.linear(rows)


class Noting(InfoBatchTrainer):
    """Notes what it was given; its losses are `losses(outputs, numbers)`."""

    losses: Any = staticmethod(squared_errors)

    def compute_losses(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        outputs = model(rows=inputs["rows"])
        return self.losses(outputs, inputs["numbers"]), outputs

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        ticket = getattr(inputs["infobatch_ticket"], "ticket", None)
        if ticket is not None:
            noted = real_numbers(inputs["numbers"], torch.from_numpy(ticket.weight))
            self.seen.setdefault(ticket.epoch, []).append(noted)
            self.plans[ticket.epoch] = (len(self.batches.loader), self.batches.loader.plan.kept)
        return super().training_step(model, inputs, num_items_in_batch)


def make_trainer(
    loader: InfoBatchLoader, folder: Path, *, losses: Any = squared_errors, callbacks: Any = None, **settings: Any
) -> Noting:
    defaults = {
        "output_dir": str(folder),
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH_SIZE,
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
    }
    args = transformers.TrainingArguments(**{**defaults, **settings})
    trainer = Noting(model=Linear(), args=args, train_loader=loader, callbacks=callbacks)
    trainer.losses = losses
    trainer.seen, trainer.plans = {}, {}
    return trainer


def hf_loader(server: Server, shards: str, run: str, **settings: Any) -> InfoBatchLoader:
    return make_loader(server, shards, run, stage=to_inputs, **settings)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_weights_are_those_of_a_plain_loop(accumulate: int, server: Server, shards: str, tmp_path: Path) -> None:
    plain = plain_training(make_loader(server, shards, f"hf-plain-{accumulate}"), accumulate)
    loader = hf_loader(server, shards, f"hf-{accumulate}")
    trainer = make_trainer(loader, tmp_path, gradient_accumulation_steps=accumulate)
    with loader:
        trainer.train()
    assert_same_weights(trainer.model.linear, plain)
    lengths = [len(trainer.seen[epoch]) for epoch in range(EPOCHS)]
    assert lengths == [trainer.plans[epoch][0] for epoch in range(EPOCHS)]
    assert [sum(map(len, trainer.seen[epoch])) for epoch in range(EPOCHS)] == [
        kept for _, kept in trainer.plans.values()
    ]
    assert min(lengths) < max(lengths), "some epochs were pruned"
    assert trainer.state.global_step == sum(-(-length // accumulate) for length in lengths)
    assert trainer.state.epoch == EPOCHS


def test_scores_belong_to_their_samples(server: Server, shards: str, tmp_path: Path) -> None:
    loader = hf_loader(server, shards, "hf-tie", num_workers=2)
    trainer = make_trainer(loader, tmp_path, losses=known_losses, gradient_accumulation_steps=3)
    with loader:
        trainer.train()
    assert_scores_are_known(server, "hf-tie")


class StopAt(transformers.TrainerCallback):  # type: ignore[misc]
    """Ends training after a step, as a time limit would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_training_stop = state.global_step == self.step
        return control


@pytest.mark.parametrize(
    ("step", "accumulate"),
    [
        (5, 1),
        (16, 3),
        (17, 1),
        (21, 3),
        pytest.param(5, 3, marks=pytest.mark.long),
        pytest.param(16, 1, marks=pytest.mark.long),
        pytest.param(17, 3, marks=pytest.mark.long),
        pytest.param(21, 1, marks=pytest.mark.long),
    ],
)
def test_a_checkpoint_goes_on_without_loss_or_repeat(
    step: int, accumulate: int, server: Server, shards: str, tmp_path: Path
) -> None:
    run = f"hf-resume-{step}-{accumulate}"
    settings = {"gradient_accumulation_steps": accumulate, "save_strategy": "steps", "save_steps": 1}
    with hf_loader(server, shards, run) as loader:
        first = make_trainer(loader, tmp_path, callbacks=[StopAt(step)], **settings)
        first.train()
    with hf_loader(server, shards, run) as loader:
        second = make_trainer(loader, tmp_path, **settings)
        second.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert sorted({*first.seen, *second.seen}) == list(range(EPOCHS))
    assert second.state.epoch == EPOCHS
    for epoch in range(EPOCHS):
        trained = [number for trainer in (first, second) for batch in trainer.seen.get(epoch, []) for number in batch]
        assert len(trained) == len(set(trained)), "no sample twice"
        assert len(trained) == {**first.plans, **second.plans}[epoch][1], "and every kept one once"
    assert second.state.global_step > step


def test_steps_of_another_batch_size_end_nothing_early(server: Server, shards: str, tmp_path: Path) -> None:
    settings = {"save_strategy": "epoch"}
    with hf_loader(server, shards, "hf-batch-size", batch_size=8) as loader:
        first = make_trainer(loader, tmp_path, callbacks=[StopAt(127)], per_device_train_batch_size=8, **settings)
        first.train()
    with hf_loader(server, shards, "hf-batch-size") as loader:
        second = make_trainer(loader, tmp_path, **settings)
        second.train(resume_from_checkpoint=True)
    assert first.state.global_step == 127 > EPOCHS * 16
    assert sorted(second.seen) == [1, 2, 3, 4]


def test_a_checkpoint_of_the_end_has_nothing_left_to_train(server: Server, shards: str, tmp_path: Path) -> None:
    with hf_loader(server, shards, "hf-end") as loader:
        first = make_trainer(loader, tmp_path, save_strategy="epoch")
        first.train()
    with hf_loader(server, shards, "hf-end") as loader:
        second = make_trainer(loader, tmp_path, save_strategy="epoch")
        second.train(resume_from_checkpoint=True)
    assert second.seen == {}
    assert_same_weights(second.model, first.model, 0)


def test_epochs_that_are_over_are_not_begun_again(server: Server, shards: str, tmp_path: Path) -> None:
    class Begun(transformers.TrainerCallback):  # type: ignore[misc]
        epochs = 0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.epochs += 1

    with hf_loader(server, shards, "hf-begun") as loader:
        make_trainer(loader, tmp_path, callbacks=[StopAt(40)], save_strategy="steps", save_steps=40).train()
    begun = Begun()
    with hf_loader(server, shards, "hf-begun") as loader:
        second = make_trainer(loader, tmp_path, callbacks=[begun], save_strategy="no")
        second.train(resume_from_checkpoint=True)
    assert begun.epochs == len(second.seen) < EPOCHS
    assert second.state.global_step == 40 + sum(map(len, second.seen.values()))


def test_restored_callbacks_are_no_obstacle(server: Server, shards: str, tmp_path: Path) -> None:
    settings = {"save_strategy": "epoch", "restore_callback_states_from_checkpoint": True}
    with hf_loader(server, shards, "hf-callbacks") as loader:
        make_trainer(loader, tmp_path, callbacks=[StopAt(16)], **settings).train()
    with hf_loader(server, shards, "hf-callbacks") as loader:
        second = make_trainer(loader, tmp_path, **settings)
        second.train(resume_from_checkpoint=True)
    assert sorted(second.seen) == [1, 2, 3, 4]


def test_max_steps_ends_in_mid_epoch(server: Server, shards: str, tmp_path: Path) -> None:
    with hf_loader(server, shards, "hf-steps") as loader:
        trainer = make_trainer(loader, tmp_path, max_steps=50)
        trainer.train()
    assert trainer.state.global_step == 50
    assert sum(map(len, trainer.seen.values())) == 50


def test_max_steps_beyond_the_schedule_ends_with_it(server: Server, shards: str, tmp_path: Path) -> None:
    with hf_loader(server, shards, "hf-many-steps") as loader:
        trainer = make_trainer(loader, tmp_path, max_steps=1000)
        trainer.train()
    assert sorted(trainer.seen) == list(range(EPOCHS))
    assert trainer.state.global_step == sum(map(len, trainer.seen.values()))


def test_the_schedule_ends_where_training_ends(server: Server, shards: str, tmp_path: Path) -> None:
    with hf_loader(server, shards, "hf-schedule") as loader:
        settings = {"lr_scheduler_type": "linear", "warmup_steps": 8, "logging_strategy": "steps", "logging_steps": 1}
        trainer = make_trainer(loader, tmp_path, **settings)
        trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    epochs = [entry["epoch"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[:9] == pytest.approx([LR * step / 8 for step in range(9)], rel=0.02)  # the 16th batch isn't full
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert set(trainer.lr_scheduler.get_last_lr()) == {0}
    assert epochs == sorted(epochs)


def test_a_collators_batches_train_a_model_of_transformers(server: Server, shards: str, tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=7
    )
    data = [{"input_ids": torch.tensor([i % 16, 3]), "labels": torch.tensor(i % 7)} for i in range(20)]
    dataset = InfoBatchStreamDataset(shards, url=server.url, run="hf-evaluate", epochs=3).map(to_tokens)
    with InfoBatchLoader(dataset, BATCH_SIZE, collate_fn=as_encoding) as loader:
        args = transformers.TrainingArguments(
            str(tmp_path),
            num_train_epochs=3,
            per_device_train_batch_size=BATCH_SIZE,
            eval_strategy="epoch",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            gradient_accumulation_steps=2,
        )
        model = transformers.BertForSequenceClassification(config)
        trainer = InfoBatchTrainer(model=model, args=args, train_loader=loader, eval_dataset=data)
        trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert (server.scores("hf-evaluate") > 0).all()


def as_encoding(rows: list[dict[str, Any]]) -> Any:
    """What the collators of transformers give: a mapping that is no dict."""
    return transformers.BatchEncoding(torch.utils.data.default_collate(rows))


def to_tokens(sample: dict[str, Any]) -> dict[str, Any]:
    number = int(sample["txt"])
    return {"input_ids": torch.tensor([number % 16, 3]), "labels": number % 7}


def test_a_batch_without_a_ticket_is_refused(server: Server, shards: str, tmp_path: Path) -> None:
    class Untied(Noting):
        def get_train_dataloader(self) -> Any:
            return [{"rows": torch.zeros(BATCH_SIZE, 4).double(), "numbers": torch.zeros(BATCH_SIZE)}] * 3

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
            return InfoBatchTrainer.training_step(self, model, inputs, num_items_in_batch)

    with hf_loader(server, shards, "hf-untied") as loader:
        args = make_trainer(loader, tmp_path).args
        with pytest.raises(LossError, match=r"this training batch has no ticket"):
            Untied(model=Linear(), args=args, train_loader=loader).train()


def test_a_plain_trainer_over_the_loader_never_ties_wrongly(server: Server, shards: str, tmp_path: Path) -> None:
    loader = hf_loader(server, shards, "hf-plain-trainer")

    class Plain(transformers.Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return loader

        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
            return loader.update(squared_errors(model(inputs["rows"]), inputs["numbers"]))

    args = make_trainer(loader, tmp_path, gradient_accumulation_steps=2).args
    with loader, pytest.raises(LossError, match=r"2 batches await their update.*HF Trainer"):
        Plain(model=Linear(), args=args).train()
    assert server.info("hf-plain-trainer").stored_scores == 0


def test_columns_reach_the_loader(server: Server, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hf_loader(server, shards, "hf-columns") as loader:
        trainer = make_trainer(loader, tmp_path)
        monkeypatch.setattr(trainer, "compute_columns", lambda outputs, inputs: {"margin": outputs}, raising=True)
        with pytest.raises(LossError, match="columns= has 'margin'; the run's policy declares no columns"):
            trainer.train()


def test_a_checkpoint_of_another_trainer_is_refused(server: Server, shards: str, tmp_path: Path) -> None:
    class Plain(transformers.Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
            return squared_errors(model(inputs["rows"]), inputs["numbers"]).mean()

    with hf_loader(server, shards, "hf-foreign") as loader:
        trainer = make_trainer(loader, tmp_path, save_strategy="epoch")
        rows = [{"rows": torch.ones(4).double(), "numbers": torch.tensor(3)}] * 4
        args = make_trainer(loader, tmp_path, save_strategy="epoch", remove_unused_columns=False).args
        Plain(model=Linear(), args=args, train_dataset=rows).train()
        with pytest.raises(StateError, match="the checkpoint holds no loader state"):
            trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_train_epochs": 3}, r"num_train_epochs=3, and the run's schedule is for 5 epochs"),
        ({"per_device_train_batch_size": 8}, r"per_device_train_batch_size=8 .* batch_size=64: set both to the same"),
        ({"label_smoothing_factor": 0.1}, r"label_smoothing_factor= is not applied to losses by sample"),
        ({"auto_find_batch_size": True}, r"auto_find_batch_size= can't change"),
    ],
)
def test_arguments_that_contradict_the_loader_are_refused(
    settings: dict[str, Any], message: str, server: Server, shards: str, tmp_path: Path
) -> None:
    loader = hf_loader(server, shards, "hf-refused")
    with pytest.raises(ConfigError, match=message):
        make_trainer(loader, tmp_path, **settings)


def test_losses_that_are_not_by_sample_are_refused(server: Server, shards: str, tmp_path: Path) -> None:
    loader = hf_loader(server, shards, "hf-refused-too")
    args = make_trainer(loader, tmp_path).args
    with pytest.raises(ConfigError, match=r"compute_loss_func= can't be used here: .* override compute_losses"):
        InfoBatchTrainer(model=Linear(), args=args, train_loader=loader, compute_loss_func=lambda *_: None)
    with loader, pytest.raises(ConfigError, match=r"losses by sample of a Linear are not known: override"):
        InfoBatchTrainer(model=Linear(), args=args, train_loader=loader).train()


def test_batches_that_are_no_dicts_are_refused(server: Server, shards: str, tmp_path: Path) -> None:
    with make_loader(server, shards, "hf-tuples") as loader, pytest.raises(ConfigError, match="takes dicts"):
        make_trainer(loader, tmp_path).train()
