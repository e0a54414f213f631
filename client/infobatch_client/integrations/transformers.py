"""Hugging Face's Trainer: one that trains from an InfoBatchLoader, gives it the losses, and resumes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from infobatch_client.integrations.sample_losses import sample_losses
from infobatch_client.integrations.ticketed_batches import BatchTicket, TicketedBatches
from infobatch_client.loader import InfoBatchLoader
from infobatch_client.tie.weighting import checked_losses, weighted_mean
from infobatch_stream.errors import ConfigError, LossError, StateError

__all__ = ["InfoBatchTrainer"]

_TICKET = "infobatch_ticket"
_TIE = ("__index__", "__weight__")


class InfoBatchTrainer(Trainer):
    """`transformers.Trainer` on an InfoBatchLoader whose batches are dicts of what the model takes.

    - An epoch is one of the run's: `num_train_epochs` is the dataset's `epochs`. With `max_steps` it ends there.
    - `gradient_accumulation_steps=A` divides each micro-batch's loss by A. An epoch whose batches A doesn't divide is
      filled up with micro-batches of weight 0, so that its last ones are trained in it.
    - Learning rates go by the run's progress instead of by steps, of which pruned epochs have fewer; with `max_steps`,
      or a scheduler that isn't one of the Trainer's own functions of the step, they go by steps.
    - Checkpoints hold the loader's state; `train(resume_from_checkpoint=…)` goes on inside the epoch. Batches are
      neither skipped nor read again, whatever `ignore_data_skip` says.

    Losses are by default those of sequence, image or audio classification and of causal language models; override
    `compute_losses` for others. `evaluate` is the Trainer's own, with `eval_dataset`.

    Args:
        args: as for `transformers.Trainer`.
        train_loader: a training loader, of which nothing is read or loaded yet.
        **trainer: as for `transformers.Trainer`, without `train_dataset` and `compute_loss_func`.

    Raises:
        ConfigError: arguments that can't go together; the message names them.

    Example:
        >>> loader = InfoBatchLoader(dataset, batch_size=16)                 # doctest: +SKIP
        >>> trainer = InfoBatchTrainer(model=model, args=args, train_loader=loader)   # doctest: +SKIP
        >>> trainer.train()                                                  # doctest: +SKIP
    """

    loss_is_scaled_for_ga = False

    def __init__(self, *, args: TrainingArguments, train_loader: InfoBatchLoader, **trainer: Any) -> None:
        for name in ("train_dataset", "compute_loss_func"):
            if trainer.get(name) is not None:
                raise ConfigError(f"{name}= has no place here: {_INSTEAD[name]}")
        self.batches = TicketedBatches(train_loader)
        _check(args, train_loader)
        self._windows = _Windows(self.batches, len(train_loader), args.gradient_accumulation_steps)
        super().__init__(args=args, **trainer)
        self.model_accepts_loss_kwargs = False  # no counting of tokens over micro-batches: losses are by sample
        self.add_callback(InfoBatchStateCallback())

    def compute_losses(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """The losses of a training batch; override it for models that the default doesn't know.

        Args:
            model: to be called with what it takes of `inputs`.
            inputs: the batch, on the model's device.

        Returns:
            Losses float (B,), or a dict of them; and the model's outputs.
        """
        return sample_losses(model, self.accelerator.unwrap_model(model), inputs)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted mean of a training batch's losses; for evaluation the Trainer's own."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        ticket = inputs.pop(_TICKET, None)
        if not isinstance(ticket, (BatchTicket, _Filling)):
            raise LossError(
                "this training batch has no ticket, so its losses can't be told whose they are: batches come from "
                "train_loader=, in the order and as often as it gives them"
            )
        losses, outputs = self.compute_losses(model, {key: inputs[key] for key in inputs if key not in _TIE})
        if isinstance(ticket, _Filling):
            checked = checked_losses(losses, ticket.rows)
            loss = weighted_mean(checked, np.zeros(ticket.rows, np.float32))
        else:
            loss = self.batches.update(losses, ticket)
        return (loss, outputs) if return_outputs else loss

    def get_train_dataloader(self) -> Any:
        """The loader's batches, not prepared by Accelerate: the loader knows its rank. The Trainer calls it."""
        return self._windows

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """The Trainer's reckoning, with the run's epochs."""
        _, *others = super().set_initial_training_values(args, dataloader)
        return (self.batches.num_epochs, *others)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The Trainer's schedule, laid over the run's progress instead of over steps."""
        given = self.lr_scheduler
        schedule = super().create_scheduler(num_training_steps, optimizer)
        if given is None and self.args.max_steps <= 0 and isinstance(schedule, LambdaLR):
            factors = [_by_progress(factor, self.batches, num_training_steps) for factor in schedule.lr_lambdas]
            self.lr_scheduler = LambdaLR(schedule.optimizer, factors)
        return self.lr_scheduler

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """The Trainer takes its epoch from a count of steps, which pruning makes wrong; the loader's state has it."""
        super()._init_training_state(*args, **kwargs)
        saved = _saved(self.state)
        return (int(saved["progress"]), 0) if saved is not None else (0, 0)


class InfoBatchStateCallback(TrainerCallback, ExportableState):
    """Puts the loader's state into `trainer_state.json`, and takes it from there; `InfoBatchTrainer` adds it."""

    def __init__(self) -> None:
        self.saved: dict[str, Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **of_trainer: Any) -> None:
        """Where training resumes, the loader resumes; and no count of steps ends it before its last epoch does."""
        windows, saved = of_trainer["train_dataloader"], _saved(state)
        if saved is None:
            return
        windows.batches.load_state_dict(saved["loader"])
        if args.max_steps <= 0:  # the steps so far may have been of another batch size
            epochs_left = windows.batches.num_epochs - int(saved["progress"])
            state.max_steps = state.global_step + epochs_left * windows.longest

    def on_step_end(self, args: Any, state: Any, control: Any, **of_trainer: Any) -> None:
        """Notes where the loader is, for a checkpoint that may follow; and the epoch, of which steps tell wrongly."""
        batches = of_trainer["train_dataloader"].batches
        self.saved = {"loader": batches.state_dict(), "progress": batches.progress()}
        state.epoch = batches.progress()

    def state(self) -> dict[str, Any]:
        """What the Trainer writes."""
        return {"args": {}, "attributes": {"saved": self.saved}}


class _Filling:
    """In place of a ticket: a micro-batch that only fills a window up."""

    def __init__(self, rows: int) -> None:
        self.rows = rows


class _Windows:
    """The batches of an epoch as dicts with their tickets, filled up to a multiple of the micro-batches in a step.

    Args:
        batches: with tickets.
        longest: batches of an unpruned epoch.
        accumulate: micro-batches in a step.
    """

    def __init__(self, batches: TicketedBatches, longest: int, accumulate: int) -> None:
        self.batches = batches
        self._longest = longest
        self._accumulate = accumulate

    @property
    def longest(self) -> int:
        """Windows of an unpruned epoch."""
        return -(-self._longest // self._accumulate)

    def __len__(self) -> int:
        """Batches of an unpruned epoch: the Trainer asks once, and takes what it gets in a shorter one."""
        return self.longest * self._accumulate

    def __iter__(self) -> Iterator[dict[str, Any]]:
        given, last = 0, None
        for ticket, batch in self.batches:
            if not isinstance(batch, Mapping):
                raise ConfigError(
                    f"the loader's batches are of type {type(batch).__name__}; a Trainer's model takes dicts: let the "
                    "pipeline, or collate_fn=, make them, such as {'input_ids': …, 'labels': …}"
                )
            given, last = given + 1, batch
            yield {**batch, _TICKET: ticket}
        for _ in range(-given % self._accumulate):
            yield {**last, _TICKET: _Filling(self.batches.loader.batch_size)}  # type: ignore[dict-item]


def _by_progress(factor: Callable[[Any], float], batches: TicketedBatches, num_steps: int) -> Callable[[int], float]:
    """A function, not an object: LambdaLR writes objects' attributes into checkpoints."""

    def at_progress(_: int) -> float:
        return factor(batches.progress() / batches.num_epochs * num_steps)

    return at_progress


_INSTEAD = {
    "train_dataset": "the training data come from train_loader=",
    "compute_loss_func": "losses are needed by sample: override compute_losses()",
}


def _check(args: TrainingArguments, loader: InfoBatchLoader) -> None:
    if loader.progress() > 0:
        raise ConfigError("train_loader has begun already, or has a state: give a new one, and resume by the Trainer")
    if args.label_smoothing_factor:
        raise ConfigError("label_smoothing_factor= is not applied to losses by sample: override compute_losses()")
    if args.auto_find_batch_size:
        raise ConfigError("auto_find_batch_size= can't change train_loader's batch_size: leave it out")
    if args.train_batch_size != loader.batch_size:
        raise ConfigError(
            f"per_device_train_batch_size={args.per_device_train_batch_size} on {max(1, args.n_gpu)} devices of this "
            f"process, and train_loader has batch_size={loader.batch_size}: give both the same"
        )
    if args.max_steps <= 0 and args.num_train_epochs != loader.num_epochs:
        raise ConfigError(
            f"num_train_epochs={args.num_train_epochs:g}, and the run's schedule is for {loader.num_epochs} epochs: "
            "give both the same"
        )


def _saved(state: Any) -> dict[str, Any] | None:
    """What a checkpoint says of the loader; None where training begins."""
    if state.global_step == 0:
        return None
    kept = (state.stateful_callbacks or {}).get(InfoBatchStateCallback.__name__)
    saved: dict[str, Any] | None = kept["attributes"]["saved"] if isinstance(kept, dict) else None
    if saved is None:
        raise StateError("the checkpoint holds no loader state: it was not written by an InfoBatchTrainer")
    return saved
