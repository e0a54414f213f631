"""FSDP2: a model under `fully_shard`, and a loader with its state in the same distributed checkpoint.

torchrun --nproc-per-node 2 fsdp2.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from digits import accuracy, make_network, parse_arguments, report, shards, train_loader
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

from infobatch_stream import ProgressLR, cosine


class Training:
    """Model and optimizer for DCP, which saves and loads each process's part."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def sharded_network() -> nn.Module:
    model = make_network()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def main() -> None:
    args = parse_arguments("Digits with InfoBatch data pruning and FSDP2.")
    dist.init_process_group("gloo")
    with shards(args) as folder, train_loader(args, folder) as loader:
        model = sharded_network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        parts = {"training": Training(model, optimizer), "loader": loader}
        if args.checkpoint is not None and Path(args.checkpoint, ".metadata").exists():
            load(parts, checkpoint_id=args.checkpoint)
        schedule = ProgressLR(optimizer, cosine(), loader)
        steps = 0
        for _ in loader.epochs():
            for images, labels in loader:
                loss = loader.update(cross_entropy(model(images), labels, reduction="none"))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                steps += 1
            if args.checkpoint is not None:
                save(parts, checkpoint_id=args.checkpoint)
        report("fsdp2", steps, accuracy(model, folder))


if __name__ == "__main__":
    main()
