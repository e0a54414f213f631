"""Hugging Face's Trainer with a small ConvNeXt, and gradient accumulation over two micro-batches.

python hf_trainer.py
torchrun --nproc-per-node 2 hf_trainer.py
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from digits import accuracy, parse_arguments, report, shards, train_loader
from transformers import ConvNextConfig, ConvNextForImageClassification, TrainingArguments

from infobatch_client.integrations.transformers import InfoBatchTrainer


def as_inputs(rows: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """Collates (image, label) pairs into the model's arguments."""
    images, labels = zip(*rows, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def make_model() -> Any:
    torch.manual_seed(0)
    config = ConvNextConfig(num_channels=1, patch_size=2, num_stages=2, hidden_sizes=[32, 64], depths=[1, 1])
    config.num_labels = 10
    return ConvNextForImageClassification(config)


def main() -> None:
    args = parse_arguments("Digits with InfoBatch data pruning and Hugging Face's Trainer.")
    with shards(args) as folder, tempfile.TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            output_dir=str(args.checkpoint or scratch),
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.batch_size,
            gradient_accumulation_steps=2,
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            save_strategy="epoch" if args.checkpoint else "no",
            logging_strategy="epoch",
            use_cpu=not torch.cuda.is_available(),
            ddp_find_unused_parameters=False,
            disable_tqdm=True,
            report_to=[],
        )
        model = make_model()
        with train_loader(args, folder, collate_fn=as_inputs) as loader:
            trainer = InfoBatchTrainer(model=model, args=settings, train_loader=loader)
            trainer.train(resume_from_checkpoint=bool(args.checkpoint and [*args.checkpoint.glob("checkpoint-*")]))
        model.eval()
        report("hf_trainer", trainer.state.global_step, accuracy(lambda images: model(images).logits, folder))


if __name__ == "__main__":
    main()
