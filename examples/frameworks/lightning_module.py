"""Lightning with our data module, and a training step that passes the losses to it.

python lightning_module.py
torchrun --nproc-per-node 2 lightning_module.py
"""

from __future__ import annotations

import os
from typing import Any

import torch
from digits import accuracy, make_network, parse_arguments, report, shards, test_loader, train_loader
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.functional import cross_entropy

from infobatch_client.integrations.lightning import InfoBatchDataModule
from infobatch_stream import InfoBatchLoader, ProgressLR, cosine


class Data(InfoBatchDataModule):
    validation: InfoBatchLoader

    def val_dataloader(self) -> InfoBatchLoader:
        return self.validation


class Digits(LightningModule):
    def __init__(self, data: Data) -> None:
        super().__init__()
        self.network = make_network()
        self.data = data

    def training_step(self, batch: Any) -> Tensor:
        ticket, (images, labels) = batch
        losses = cross_entropy(self.network(images), labels, reduction="none")
        return self.data.update(losses, ticket)

    def validation_step(self, batch: Any) -> None:
        images, labels = batch
        losses = cross_entropy(self.network(images), labels, reduction="none")
        weights = self.data.validation.weights()  # 0 in rows that fill the last batch
        rows = weights.sum()
        self.log("loss", weights @ losses / rows.clamp(min=1), batch_size=int(rows), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        schedule = ProgressLR(optimizer, cosine(), self.data)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def lr_scheduler_step(self, scheduler: Any, metric: object) -> None:
        scheduler.step()


def main() -> None:
    args = parse_arguments("Digits with InfoBatch data pruning and Lightning.")
    with shards(args) as folder:
        data = Data(train_loader(args, folder))
        data.validation = test_loader(folder)
        module = Digits(data)
        trainer = Trainer(
            max_epochs=args.epochs,
            accelerator="cpu",
            devices=int(os.environ.get("WORLD_SIZE", "1")),
            accumulate_grad_batches=2,
            callbacks=[ModelCheckpoint(args.checkpoint, save_last=True)] if args.checkpoint else None,
            enable_checkpointing=args.checkpoint is not None,
            logger=False,
        )
        trainer.fit(module, datamodule=data, ckpt_path="last" if args.checkpoint else None)
        report("lightning", trainer.global_step, accuracy(module.network.eval(), folder))


if __name__ == "__main__":
    main()
