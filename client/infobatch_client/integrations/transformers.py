"""Hugging Face's Trainer on an InfoBatchLoader: reads its batches, updates it with the losses, and resumes with it."""

from __future__ import annotations

import copy
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
    """`transformers.Trainer` on an InfoBatchLoader whose batches are dicts of the model's arguments.

    - An epoch is one of the run's: `num_train_epochs` must be the dataset's `epochs`. `max_steps` may end the training
      before the last one.
    - `gradient_accumulation_steps=A` divides each micro-batch's loss by A. If A doesn't divide an epoch's number of
      batches, micro-batches of weight 0 fill the last step, so that all of the epoch is trained in it.
    - Learning rates follow the run's progress instead of steps, of which pruned epochs have fewer. With `max_steps`,
      or a scheduler that isn't one of the Trainer's own functions of the step, they follow steps.
    - Checkpoints hold the loader's state; `train(resume_from_checkpoint=…)` resumes inside the epoch. No batch is
      skipped or read twice, with any `ignore_data_skip`.

    Losses are by default those of sequence, image or audio classification and of causal language models; override
    `compute_losses` for others, and `compute_columns` for a policy that declares columns. `evaluate` is the Trainer's
    own, with `eval_dataset`.

    Args:
        args: as for `transformers.Trainer`.
        train_loader: a training loader from which nothing was read, and into which no state was loaded.
        **trainer: as for `transformers.Trainer`, without `train_dataset` and `compute_loss_func`.

    Raises:
        ConfigError: arguments that contradict each other; the message names them.

    Example:
        >>> loader = InfoBatchLoader(dataset, batch_size=16)                 # doctest: +SKIP
        >>> trainer = InfoBatchTrainer(model=model, args=args, train_loader=loader)   # doctest: +SKIP
        >>> trainer.train()                                                  # doctest: +SKIP
    """

    loss_is_scaled_for_ga = False

    def __init__(self, *, args: TrainingArguments, train_loader: InfoBatchLoader, **trainer: Any) -> None:
        for name in ("train_dataset", "compute_loss_func"):
            if trainer.get(name) is not None:
                raise ConfigError(f"{name}= can't be used here: {_INSTEAD[name]}")
        self.batches = TicketedBatches(train_loader)
        _check(args, train_loader)
        self._windows = _Windows(self.batches, len(train_loader), args.gradient_accumulation_steps)
        super().__init__(args=args, **trainer)
        self.model_accepts_loss_kwargs = False  # losses are by sample, so tokens aren't counted over micro-batches
        self.add_callback(InfoBatchStateCallback())

    def compute_losses(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """The losses of a training batch; override it for models that the default doesn't know.

        Args:
            model: the model to call with its arguments in `inputs`.
            inputs: the batch, on the model's device.

        Returns:
            Losses float (B,), or a dict of them; and the model's outputs.
        """
        return sample_losses(model, self.accelerator.unwrap_model(model), inputs)

    def compute_columns(self, outputs: Any, inputs: dict[str, Any]) -> Mapping[str, Any] | None:
        """The columns of a training batch; override it if the run's policy declares some.

        Args:
            outputs: the model's, from `compute_losses`.
            inputs: the batch, on the model's device.

        Returns:
            A tensor (B,) by column name, or None.
        """
        return None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted mean of a training batch's losses; for evaluation the Trainer's own."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        ticket = inputs.pop(_TICKET, None)
        if not isinstance(ticket, (BatchTicket, _Filling)):
            raise LossError(
                "this training batch has no ticket, so its losses can't be tied to samples: train the batches of "
                "train_loader= as they come, each of them once"
            )
        inputs = {key: inputs[key] for key in inputs if key not in _TIE}
        losses, outputs = self.compute_losses(model, inputs)
        if isinstance(ticket, _Filling):
            checked = checked_losses(losses, ticket.rows)
            loss = weighted_mean(checked, np.zeros(ticket.rows, np.float32))
        else:
            loss = self.batches.update(losses, ticket, columns=self.compute_columns(outputs, inputs))
        return (loss, outputs) if return_outputs else loss

    def get_train_dataloader(self) -> Any:
        """The loader's batches, not prepared by Accelerate: the loader knows its rank. The Trainer calls it."""
        return self._windows

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """The Trainer's numbers, with the run's epochs."""
        _, *others = super().set_initial_training_values(args, dataloader)
        return (self.batches.num_epochs, *others)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The Trainer's schedule, as a function of the run's progress instead of steps."""
        from_user = self.lr_scheduler
        schedule = super().create_scheduler(num_training_steps, optimizer)
        if from_user is None and self.args.max_steps <= 0 and isinstance(schedule, LambdaLR):
            factors = [_by_progress(factor, self.batches, num_training_steps) for factor in schedule.lr_lambdas]
            self.lr_scheduler = LambdaLR(schedule.optimizer, factors)
        return self.lr_scheduler

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """The epoch from the loader's state; the Trainer's own count of steps is wrong once epochs are pruned."""
        super()._init_training_state(*args, **kwargs)
        saved = _saved(self.state)
        return (int(saved["progress"]), 0) if saved is not None else (0, 0)


class InfoBatchStateCallback(TrainerCallback, ExportableState):
    """Saves the loader's state in `trainer_state.json`, and loads it from there; `InfoBatchTrainer` adds it."""

    def __init__(self) -> None:
        self.saved: dict[str, Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **of_trainer: Any) -> None:
        """Resumes the loader with the training, and raises the limit of steps so that only the last epoch ends it."""
        windows, saved = of_trainer["train_dataloader"], _saved(state)
        if saved is None:
            return
        windows.batches.load_state_dict(saved["loader"])
        if args.max_steps <= 0:  # the steps so far may have been of another batch size
            epochs_left = windows.batches.num_epochs - int(saved["progress"])
            state.max_steps = state.global_step + epochs_left * windows.longest

    def on_step_end(self, args: Any, state: Any, control: Any, **of_trainer: Any) -> None:
        """Notes the loader's position for a checkpoint that may follow; and the epoch, which steps would get wrong."""
        batches = of_trainer["train_dataloader"].batches
        self.saved = {"loader": batches.state_dict(), "progress": batches.progress()}
        state.epoch = batches.progress()

    def state(self) -> dict[str, Any]:
        """The values that the Trainer writes."""
        return {"args": {}, "attributes": {"saved": copy.deepcopy(self.saved)}}


class _Filling:
    """Marks a micro-batch that only fills a window, in place of a ticket."""

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
        """Batches of an unpruned epoch: the Trainer reads it once, and copes with shorter epochs."""
        return self.longest * self._accumulate

    def __iter__(self) -> Iterator[dict[str, Any]]:
        count, last, rows = 0, None, 0
        for ticket, batch in self.batches:
            if not isinstance(batch, Mapping):
                raise ConfigError(
                    f"the loader's batches are of type {type(batch).__name__}; a Trainer's model takes dicts: let the "
                    "pipeline, or collate_fn=, make them, such as {'input_ids': …, 'labels': …}"
                )
            count, last, rows = count + 1, batch, len(ticket.ticket)
            yield {**batch, _TICKET: ticket}
        for _ in range(-count % self._accumulate):
            yield {**last, _TICKET: _Filling(rows)}  # type: ignore[dict-item]


def _by_progress(factor: Callable[[Any], float], batches: TicketedBatches, num_steps: int) -> Callable[[int], float]:
    """A function and not an object: LambdaLR writes the attributes of objects into checkpoints."""

    def at_progress(_: int) -> float:
        return factor(batches.progress() / batches.num_epochs * num_steps)

    return at_progress


_INSTEAD = {
    "train_dataset": "the training data come from train_loader=",
    "compute_loss_func": "losses are needed by sample: override compute_losses()",
}


def _check(args: TrainingArguments, loader: InfoBatchLoader) -> None:
    if loader.progress() > 0:
        raise ConfigError("train_loader has begun already, or has a state: pass a new one, and resume by the Trainer")
    if args.label_smoothing_factor:
        raise ConfigError("label_smoothing_factor= is not applied to losses by sample: override compute_losses()")
    if args.auto_find_batch_size:
        raise ConfigError("auto_find_batch_size= can't change train_loader's batch_size: leave it out")
    if args.train_batch_size != loader.batch_size:
        raise ConfigError(
            f"per_device_train_batch_size={args.per_device_train_batch_size} on {max(1, args.n_gpu)} devices of this "
            f"process, and train_loader has batch_size={loader.batch_size}: set both to the same"
        )
    if args.max_steps <= 0 and args.num_train_epochs != loader.num_epochs:
        raise ConfigError(
            f"num_train_epochs={args.num_train_epochs:g}, and the run's schedule is for {loader.num_epochs} epochs: "
            "set both to the same"
        )


def _saved(state: Any) -> dict[str, Any] | None:
    """The loader's state in a checkpoint; None at the beginning of the training."""
    if state.global_step == 0:
        return None
    kept = (state.stateful_callbacks or {}).get(InfoBatchStateCallback.__name__)
    saved: dict[str, Any] | None = kept["attributes"]["saved"] if isinstance(kept, dict) else None
    if saved is None:
        raise StateError("the checkpoint holds no loader state: it was not written by an InfoBatchTrainer")
    return saved
