"""Measures how long `loader.update` delays a training step, compared with a bare weighted mean of the same losses.

    python benchmarks/update.py [--rows 256] [--steps 2000] [--json]

The loader and the embedded server are real, and the pusher sends scores meanwhile. The figure is the median over the
steps; the two timings alternate, so that other load on the machine affects both.
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

import torch

from infobatch_stream import Connection, InfoBatchLoader, InfoBatchStreamDataset


def make_shard(path: Path, samples: int) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(samples):
            member = tarfile.TarInfo(f"{number:08d}.cls")
            member.size = 1
            tar.addfile(member, BytesIO(b"0"))


def label(sample: dict[str, object]) -> int:
    return int(sample["cls"])  # type: ignore[call-overload, no-any-return]


def measure(rows: int, steps: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        make_shard(Path(folder) / "a.tar", rows * steps)
        dataset = InfoBatchStreamDataset(
            f"{folder}/a.tar", epochs=8, run="update", connection=Connection(state_dir=f"{folder}/state"), seed=0
        ).map(label)
        update_s, bare_s = [], []
        weight = torch.ones(rows)
        weight[::2] = 2.0
        with InfoBatchLoader(dataset, batch_size=rows) as loader:
            for _ in loader.epochs():
                for _ in loader:
                    # Half of the losses are below the mean, so that plans prune and some weights are not 1.
                    losses = torch.rand(rows).requires_grad_()
                    start_s = time.perf_counter()
                    (losses * weight).sum() / rows
                    middle_s = time.perf_counter()
                    loader.update(losses)
                    update_s.append(time.perf_counter() - middle_s)
                    bare_s.append(middle_s - start_s)
                if loader.epoch == 1:
                    break
    first = len(update_s) // 10  # until caches are warm
    update, bare = statistics.median(update_s[first:]), statistics.median(bare_s[first:])
    p99 = statistics.quantiles(update_s[first:], n=100)[98]
    return {
        "rows": rows,
        "steps": len(update_s) - first,
        "update_us": 1e6 * update,
        "update_p99_us": 1e6 * p99,
        "bare_mean_us": 1e6 * bare,
        "ratio": update / bare,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256, help="losses per step")
    parser.add_argument("--steps", type=int, default=2000, help="steps per epoch; two epochs are timed")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of a table")
    options = parser.parse_args()
    results = measure(options.rows, options.steps)
    if options.json:
        print(json.dumps(results))
        return
    print(f"{results['rows']} CPU losses, median of {results['steps']} steps")
    print(f"loader.update        {results['update_us']:8.1f} µs   (99th percentile {results['update_p99_us']:.1f} µs)")
    print(f"bare weighted mean   {results['bare_mean_us']:8.1f} µs")
    print(f"ratio                {results['ratio']:8.2f}×")


if __name__ == "__main__":
    main()
