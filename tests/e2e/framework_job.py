"""One rank of `test_frameworks_ranks`: trains with every framework, and writes down what it saw.

The frameworks are imported once, and each training runs in a fork of its own: a new process, as a user's would be.

Arguments: server, shards, folder, and the trainings: FRAMEWORK-KIND:PORT, the port for the ranks to meet at.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2]))

from infobatch_stream import InfoBatchLoader
from tests.e2e.framework_task import EPOCHS, LR, make_loader, make_model, real_numbers, squared_errors, to_row

ACCUMULATE = 2
BATCH_SIZE = 32
STOP_AFTER = 8 + 3  # 8 steps in epoch 0, 3 in epoch 1
TIMEOUT_S = 100
IMPORTS = {"accelerate_loop": "accelerate", "lightning": "lightning.pytorch", "hf_trainer": "transformers.trainer"}


class Log:
    """What one rank trained, and when it stops."""

    def __init__(self, stop_after: int) -> None:
        self.stop_after = stop_after
        self.seen: dict[int, list[list[int]]] = {}
        self.lengths: dict[int, int] = {}
        self.steps = 0

    def batch(self, loader: InfoBatchLoader, ticket: Any, numbers: torch.Tensor) -> None:
        self.seen.setdefault(ticket.epoch, []).append(real_numbers(numbers, torch.from_numpy(ticket.weight)))
        self.lengths[ticket.epoch] = len(loader)

    def stops(self) -> bool:
        """Counts a step."""
        self.steps += 1
        return self.steps == self.stop_after


def accelerate_loop(loader: InfoBatchLoader, folder: Path, log: Log, resume: bool) -> torch.nn.Module:
    from accelerate import Accelerator

    from infobatch_client.integrations.accelerate import AcceleratedBatches

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE)
    batches = AcceleratedBatches(accelerator, loader)
    accelerator.register_for_checkpointing(batches)
    plain = make_model()
    model, optimizer = accelerator.prepare(plain, torch.optim.SGD(plain.parameters(), lr=LR))
    if resume:
        accelerator.load_state(str(folder / "state"))
    for _ in batches.epochs():
        for ticket, (rows, numbers) in batches:
            log.batch(loader, ticket.ticket, numbers)
            with accelerator.accumulate(model):
                accelerator.backward(batches.update(squared_errors(model(rows), numbers), ticket))
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients and log.stops():
                accelerator.save_state(str(folder / "state"))
                return plain
    return plain


def lightning(loader: InfoBatchLoader, folder: Path, log: Log, resume: bool) -> torch.nn.Module:
    import lightning.pytorch as pl

    from infobatch_client.integrations.lightning import InfoBatchDataModule

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = make_model()

        def training_step(self, batch: Any) -> torch.Tensor:
            ticket, (rows, numbers) = batch
            log.batch(loader, ticket.ticket, numbers)
            return self.trainer.datamodule.update(squared_errors(self.model(rows), numbers), ticket)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

        def on_train_batch_end(self, *_: Any) -> None:
            if self.trainer.global_step > log.steps and log.stops():
                self.trainer.save_checkpoint(folder / "stopped.ckpt")
                self.trainer.should_stop = True

    module = Module()
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=2,
        accumulate_grad_batches=ACCUMULATE,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=InfoBatchDataModule(loader), ckpt_path=folder / "stopped.ckpt" if resume else None)
    return module.model


def hf_trainer(loader: InfoBatchLoader, folder: Path, log: Log, resume: bool) -> torch.nn.Module:
    import transformers

    from infobatch_client.integrations.transformers import InfoBatchTrainer

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = make_model()

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.linear(rows)

    class Training(InfoBatchTrainer):
        def compute_losses(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
            outputs = model(inputs["rows"])
            return squared_errors(outputs, inputs["numbers"]), outputs

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
            if (ticket := getattr(inputs["infobatch_ticket"], "ticket", None)) is not None:
                log.batch(loader, ticket, inputs["numbers"])
            return super().training_step(model, inputs, num_items_in_batch)

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = control.should_save = log.stops()

    args = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        gradient_accumulation_steps=ACCUMULATE,
        learning_rate=LR,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        ddp_find_unused_parameters=False,
    )
    model = Model()
    trainer = Training(model=model, args=args, train_loader=loader, callbacks=[Stop()])
    trainer.train(resume_from_checkpoint=resume)
    return model.linear


def fsdp2(loader: InfoBatchLoader, folder: Path, log: Log, resume: bool) -> torch.nn.Module:
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    model = make_model()
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    parts = {"model": model, "loader": loader}
    if resume:
        load(parts, checkpoint_id=folder / "state")
    for _ in loader.epochs():
        for at, (ticket, (rows, numbers)) in enumerate(loader.ticketed(), start=1):
            log.batch(loader, ticket, numbers)
            loss = loader.update(squared_errors(model(rows), numbers), batch=ticket)
            (loss / ACCUMULATE).backward()
            if at % ACCUMULATE and at < len(loader):
                continue
            optimizer.step()
            optimizer.zero_grad()
            if log.stops():
                save(parts, checkpoint_id=folder / "state")
                return model
    return model


def train_with(framework: str, kind: str, url: str, shards: str, folder: Path) -> None:
    """One training: "whole", or "stopped" inside epoch 1 and "resumed"."""
    train: Callable[..., torch.nn.Module] = globals()[framework]
    stage: Any = to_row
    if framework == "hf_trainer":
        stage = to_inputs
    log = Log(STOP_AFTER if kind == "stopped" else 0)
    run = f"ranks-{framework}" if kind == "whole" else f"ranks-resume-{framework}"
    with make_loader(SimpleNamespace(url=url), shards, run, stage=stage, batch_size=BATCH_SIZE) as loader:  # type: ignore[arg-type]
        model = train(loader, folder, log, kind == "resumed")
    weights = [
        (part.full_tensor() if hasattr(part, "full_tensor") else part).detach().tolist() for part in model.parameters()
    ]
    found = {"weights": weights, "seen": log.seen, "lengths": log.lengths, "steps": log.steps}
    (folder / f"{kind}-{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def in_a_fork(act: Callable[[], None], output: Path) -> int:
    """The exit status of `act` in a process of its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(TIMEOUT_S)
    code = 1
    try:
        with open(output, "w", buffering=1) as sys.stdout:
            sys.stderr = sys.stdout
            os.dup2(sys.stdout.fileno(), 1)
            os.dup2(sys.stdout.fileno(), 2)
            try:
                act()
                code = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
    finally:
        os._exit(code)


def to_inputs(sample: dict[str, Any]) -> dict[str, Any]:
    rows, number = to_row(sample)
    return {"rows": rows, "numbers": number}


def main(url: str, shards: str, folder: Path, trainings: list[str]) -> None:
    rank = os.environ["RANK"]
    for training in trainings:
        name, _, port = training.partition(":")
        framework, _, kind = name.partition("-")
        if framework in IMPORTS:
            import_module(IMPORTS[framework])
        # A launch of its own, as far as torch and the framework can see.
        os.environ |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False", "TORCHELASTIC_RUN_ID": name}
        own = folder / framework
        own.mkdir(exist_ok=True)
        code = in_a_fork(partial(train_with, framework, kind, url, shards, own), own / f"{kind}-{rank}.log")
        (own / f"{kind}-{rank}.exit").write_text(str(code))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
