"""Trains on CIFAR-10 shards with and without pruning; the last line of the output is the result as JSON.

    python train.py --data DIR --policy infobatch --model resnet18 --amp
    torchrun --nproc-per-node 2 train.py --data DIR --policy infobatch --model resnet18 --amp

The README.md in this folder shows how to get the shards.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from augment import crop_and_flip, generator_for, normalize
from checkpoint import History, Stateful, read, restore, save
from model import MODELS, make_model
from ranks import Ranks, join_ranks
from torch import Tensor, nn
from tqdm import tqdm

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset, ProgressLR, one_cycle


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="CIFAR-10 with InfoBatch data pruning.")
    parser.add_argument("--data", type=Path, required=True, help="a folder with train-*.tar and test-*.tar")
    parser.add_argument("--policy", choices=["full", "infobatch", "random", "hard"], default="infobatch")
    parser.add_argument("--prune-ratio", type=float, default=0.5, help="share of a prunable class to prune")
    parser.add_argument("--delta", type=float, default=0.875, help="share of the epochs that prune")
    parser.add_argument("--url", help="HOST:PORT of a score server (default: an embedded one, in ./.infobatch)")
    # torchrun would parse a script's --run as its own --run-path.
    parser.add_argument(
        "--run-name", "--run", dest="run", help="the run's name (default: a new one, or that of --resume)"
    )
    parser.add_argument("--model", choices=sorted(MODELS), default="resnet18")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=128, help="batch size of all ranks together")
    parser.add_argument("--lr", type=float, default=0.2, help="the peak of the one-cycle schedule")
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, augmentation, draws and orders")
    parser.add_argument("--workers", type=int, default=2, help="DataLoader workers of each rank")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", action="store_true", help="use bfloat16 autocast (CUDA only)")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="save a checkpoint here after every epoch")
    parser.add_argument("--checkpoint-every", type=int, default=0, metavar="N", help="save it every N steps too")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="resume from a checkpoint")
    args = parser.parse_args()
    if args.checkpoint is None and args.resume is not None:
        args.checkpoint = args.resume
    if args.checkpoint_every and args.checkpoint is None:
        parser.error("--checkpoint-every needs --checkpoint FILE")
    if args.amp and not args.device.startswith("cuda"):
        parser.error("--amp needs a CUDA device")
    return args


def shards(folder: Path, split: str) -> list[str]:
    """The shards of one split, in order."""
    paths = sorted(str(path) for path in folder.glob(f"{split}-*.tar"))
    if not paths:
        sys.exit(f"no {split}-*.tar in {folder}: README.md shows how to write them")
    return paths


def train_loader(args: argparse.Namespace, run: str | None, ranks: Ranks) -> InfoBatchLoader:
    if args.batch_size % ranks.world_size:
        sys.exit(f"--batch-size must be a multiple of the number of ranks, {ranks.world_size}; got {args.batch_size}")
    dataset = (
        InfoBatchStreamDataset(
            shards(args.data, "train"),
            url=args.url,
            run=run,
            epochs=args.epochs,
            policy=args.policy,
            prune_ratio=None if args.policy == "full" else args.prune_ratio,
            delta=args.delta,
            seed=args.seed,
        )
        .decode("torchrgb8")
        .to_tuple("png;jpg", "cls")
    )
    return InfoBatchLoader(dataset, batch_size=args.batch_size // ranks.world_size, num_workers=args.workers)


def test_loader(args: argparse.Namespace) -> InfoBatchLoader:
    dataset = (
        InfoBatchStreamDataset(shards(args.data, "test"), policy=None, shuffle=False)
        .decode("torchrgb8")
        .to_tuple("png;jpg", "cls")
    )
    return InfoBatchLoader(dataset, batch_size=500, num_workers=args.workers)


class Training:
    """The training of one model: steps, evaluations and checkpoints."""

    def __init__(self, args: argparse.Namespace, ranks: Ranks, loader: InfoBatchLoader, tests: InfoBatchLoader) -> None:
        self.args = args
        self.ranks = ranks
        self.loader = loader
        self.tests = tests
        self.device = ranks.device
        self.model: nn.Module = make_model(args.model, args.seed).to(self.device)
        self.parallel = ranks.train_together(self.model)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=args.lr,
            momentum=args.momentum,
            weight_decay=args.weight_decay,
            nesterov=args.momentum > 0,
        )
        self.schedule = ProgressLR(self.optimizer, one_cycle(), loader)
        self.parts: dict[str, Stateful] = {
            "loader": loader,
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }
        self.history = History()
        self.uncounted = 0
        self.start_s = time.perf_counter()

    def resume(self, checkpoint: dict[str, Any]) -> None:
        self.history = restore(checkpoint, self.parts)
        self.start_s -= self.history.elapsed_s

    def save(self) -> None:
        """Saves a checkpoint; called by all ranks, written by the first."""
        self.count()
        if self.args.checkpoint is not None and self.ranks.is_first:
            self.history.elapsed_s = time.perf_counter() - self.start_s
            save(self.args.checkpoint, self.parts, self.history)

    def count(self) -> None:
        """Adds the samples that all ranks have trained since the last call to the history."""
        self.history.trained[-1] += self.ranks.total(self.uncounted)[0]
        self.uncounted = 0

    def epoch(self, epoch: int) -> None:
        """Trains the rest of `epoch`, evaluates and saves."""
        self.evaluate_until(epoch)
        if len(self.history.trained) == epoch:
            self.history.trained.append(0)
            plan = self.loader.metrics()
            self.history.kept_shares.append(plan["kept"] / (plan["kept"] + plan["pruned"]))
        self.model.train()
        batches = tqdm(
            self.loader, desc=f"epoch {epoch}", unit="batch", leave=False, disable=None if self.ranks.is_first else True
        )
        for images, labels in batches:
            self.step(images, labels)
            self.uncounted += int((self.loader.weights() > 0).sum())
            if self.args.checkpoint_every and self.history.step % self.args.checkpoint_every == 0:
                self.save()
        self.evaluate_until(epoch + 1)
        self.save()

    def step(self, images: Tensor, labels: Tensor) -> None:
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        draws = generator_for(self.args.seed, self.history.step)
        images = crop_and_flip(images, draws, part=(self.ranks.rank, self.ranks.world_size))
        with self.autocast():
            logits = self.parallel(normalize(images))
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        loss = self.loader.update(losses)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        self.history.step += 1

    def evaluate_until(self, epochs_done: int) -> None:
        """Evaluates the last epoch if needed: a checkpoint may be from its last step, before the evaluation."""
        if len(self.history.accuracies) < epochs_done:
            self.history.accuracies.append(self.evaluate())

    @torch.inference_mode()
    def evaluate(self) -> float:
        """The accuracy on the test samples, each rank testing its part; rows of weight 0 are padding."""
        self.ranks.same_buffers(self.model)
        self.model.eval()
        right = total = 0
        for images, labels in self.tests:
            real = self.tests.weights() > 0
            with self.autocast():
                predicted = self.model(normalize(images.to(self.device))).argmax(dim=1).cpu()
            right += int(((predicted == labels) & real).sum())
            total += int(real.sum())
        right, total = self.ranks.total(right, total)
        return right / total

    def autocast(self) -> Any:
        return torch.autocast("cuda", dtype=torch.bfloat16) if self.args.amp else nullcontext()

    def result(self) -> dict[str, Any]:
        """The result, for the last line of the output."""
        return {
            "accuracy": self.history.accuracies[-1],
            "samples_trained": sum(self.history.trained),
            "kept_shares": self.history.kept_shares,
            "accuracies": self.history.accuracies,
            "wall_s": round(time.perf_counter() - self.start_s, 3),
            "steps": self.history.step,
            "policy": self.args.policy,
            "ranks": self.ranks.world_size,
            "args": {name: str(value) if isinstance(value, Path) else value for name, value in vars(self.args).items()},
        }


def main() -> None:
    args = parse_arguments()
    with join_ranks(args.device) as ranks:
        train(args, ranks)


def train(args: argparse.Namespace, ranks: Ranks) -> None:
    checkpoint = read(args.resume) if args.resume is not None else None
    run = args.run or (checkpoint["parts"]["loader"]["run"] if checkpoint is not None else None)
    with test_loader(args) as tests, train_loader(args, run, ranks) as loader:
        training = Training(args, ranks, loader, tests)
        if checkpoint is not None:
            training.resume(checkpoint)
        for epoch in loader.epochs():
            training.epoch(epoch)
            trained, accuracy = training.history.trained[-1], training.history.accuracies[-1]
            if ranks.is_first:
                print(f"epoch {epoch}: {trained:,} samples trained, accuracy {accuracy:.2%}", file=sys.stderr)
        training.evaluate_until(args.epochs)
        if ranks.is_first:
            print(json.dumps(training.result()))


if __name__ == "__main__":
    main()
