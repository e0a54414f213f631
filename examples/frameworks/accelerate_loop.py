"""Accelerate's device, accumulation and checkpoints, with a loader that Accelerate doesn't prepare.

python accelerate_loop.py
accelerate launch --cpu --num_processes 2 accelerate_loop.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from digits import accuracy, make_network, parse_arguments, report, shards, train_loader
from torch import nn

from infobatch_client.integrations.accelerate import AcceleratedBatches
from infobatch_stream import ProgressLR, cosine


def main() -> None:
    args = parse_arguments("Digits with InfoBatch data pruning and Accelerate.")
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), gradient_accumulation_steps=2)
    with shards(args) as folder:
        batches = AcceleratedBatches(accelerator, train_loader(args, folder))
        model = make_network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        model, optimizer = accelerator.prepare(model, optimizer)  # not the loader: it knows its rank
        schedule = ProgressLR(optimizer, cosine(), batches)
        accelerator.register_for_checkpointing(batches)
        if args.checkpoint is not None and args.checkpoint.exists():
            accelerator.load_state(str(args.checkpoint))
        criterion = nn.CrossEntropyLoss(reduction="none")
        steps = 0
        for epoch in batches.epochs():
            for ticket, (images, labels) in batches:
                with accelerator.accumulate(model):
                    loss = batches.update(criterion(model(images), labels), ticket)
                    accelerator.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                if accelerator.sync_gradients:
                    schedule.step()
                    steps += 1
            accelerator.print(f"epoch {epoch}: trained {batches.loader.plan.kept} samples, loss {loss.item():.3f}")
            if args.checkpoint is not None:
                accelerator.save_state(str(args.checkpoint))
        batches.close()
        report("accelerate", steps, accuracy(accelerator.unwrap_model(model), folder))


if __name__ == "__main__":
    main()
