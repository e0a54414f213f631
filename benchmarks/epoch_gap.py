"""Measures the pause of a training between two epochs, compared with one of its steps.

    python benchmarks/epoch_gap.py [--samples 50000] [--workers 0 2] [--epochs 5] [--width 1024] [--ranks 1] [--json]

A gap is the time from the return of an epoch's last batch to the return of the next epoch's first batch. It covers the
last step itself, sending the last scores and EndEpoch, drawing and fetching the next plan, and the first batch of
persistent workers. The training steps on the CPU and the embedded server are real; a step is the median time from one
batch to the next. The gap must stay below max(one step, 0.5 s).

With --ranks N, N processes train together with DDP over gloo, on BATCH / N rows each; a gap or a step is then that of
the slowest rank.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from infobatch_client.demo.ranks import on_ranks
from infobatch_stream import Connection, InfoBatchLoader, InfoBatchStreamDataset

FEATURES = 512
CLASSES = 10
BATCH = 128
SHARDS = 10


def make_shards(folder: Path, samples: int) -> None:
    """Writes `samples` samples of FEATURES random bytes and a class, in SHARDS shards."""
    random = np.random.default_rng(0)
    for number in range(SHARDS):
        with tarfile.open(folder / f"part-{number}.tar", "w") as tar:
            for sample in range(number * samples // SHARDS, (number + 1) * samples // SHARDS):
                features = random.integers(0, 256, FEATURES, np.uint8)
                label = str(int(features[:8].sum()) % CLASSES).encode()
                for extension, data in (("raw", features.tobytes()), ("cls", label)):
                    member = tarfile.TarInfo(f"{sample:08d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, BytesIO(data))


def to_pair(sample: dict[str, bytes]) -> tuple[np.ndarray, int]:
    return np.frombuffer(sample["raw"], np.uint8).astype(np.float32) / 255, int(sample["cls"])


def longest(times_s: list[float]) -> list[float]:
    """Each of `times_s` on the slowest rank, in seconds."""
    worst = torch.tensor(times_s, dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(worst, dist.ReduceOp.MAX)
    return [float(time_s) for time_s in worst]


def measure(folder: Path, workers: int, epochs: int, width: int) -> dict[str, float]:
    dataset = InfoBatchStreamDataset(
        str(folder / "part-*.tar"),
        epochs=epochs,
        run=f"gap-{workers}",
        connection=Connection(state_dir=folder / "state"),
        seed=0,
    ).map(to_pair)
    torch.manual_seed(0)
    layers = [torch.nn.Linear(FEATURES, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU()]
    model: torch.nn.Module = torch.nn.Sequential(*layers, torch.nn.Linear(width, CLASSES))
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    if ranks > 1:
        torch.set_num_threads(1)
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    criterion = torch.nn.CrossEntropyLoss(reduction="none")
    gaps_s, steps_s = [], []
    with InfoBatchLoader(dataset, BATCH // ranks, workers) as loader:
        for epoch in loader.epochs():
            last_batch_s = None
            for features, labels in loader:
                now_s = time.monotonic()
                if last_batch_s is not None:
                    steps_s.append(now_s - last_batch_s)
                elif epoch:
                    gaps_s.append(loader.metrics()["epoch_gap_s"])
                last_batch_s = now_s
                loss = loader.update(criterion(model(features), labels))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    gaps_s, steps_s = longest(gaps_s), longest(steps_s)
    step, gap = statistics.median(steps_s), statistics.median(gaps_s)
    return {
        "workers": workers,
        "gaps": len(gaps_s),
        "step_s": step,
        "gap_s": gap,
        "gap_max_s": max(gaps_s),
        "bound_s": max(step, 0.5),
        "gap_by_bound": gap / max(step, 0.5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=50_000, help="N")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="DataLoader workers, one table row each")
    parser.add_argument("--epochs", type=int, default=5, help="at least 2; the number of gaps is one less")
    parser.add_argument("--width", type=int, default=1024, help="width of the model, which determines the step time")
    parser.add_argument("--ranks", type=int, default=1, help=f"ranks on this machine; they share batches of {BATCH}")
    parser.add_argument("--json", action="store_true", help="print one JSON line for each number of workers")
    options = parser.parse_args()
    if options.epochs < 2 or options.samples < 2 * BATCH:
        parser.error(f"a gap and a step need --epochs of at least 2, and --samples of at least {2 * BATCH}")
    if options.ranks < 1 or BATCH % options.ranks:
        parser.error(f"--ranks must divide the batch size {BATCH}; got {options.ranks}")
    with tempfile.TemporaryDirectory() as folder:
        make_shards(Path(folder), options.samples)
        results = [
            on_ranks(options.ranks, measure, Path(folder), workers, options.epochs, options.width)
            for workers in options.workers
        ]
    if options.json:
        for line in results:
            print(json.dumps(line))
        return
    ranks_text = f" on {options.ranks} ranks" if options.ranks > 1 else ""
    print(f"{options.samples} samples, batches of {BATCH}{ranks_text}; medians over {results[0]['gaps']} gaps")
    print("workers      step       gap  largest gap   gap / max(step, 0.5 s)")
    for line in results:
        print(
            f"{line['workers']:>7}  {1e3 * line['step_s']:5.1f} ms  {1e3 * line['gap_s']:5.0f} ms"
            f"     {1e3 * line['gap_max_s']:5.0f} ms   {line['gap_by_bound']:.2f}"
        )


if __name__ == "__main__":
    main()
