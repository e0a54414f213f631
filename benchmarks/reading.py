"""Measures samples per second of our indexed reader and of webdataset's reader, on the same shards in the same run.

One process, no decoding, a warm page cache. The measurements alternate; the table shows medians. If half of the
samples are kept, webdataset reads all of them and skips the others; both figures are per kept sample.

    python benchmarks/reading.py --samples 8000 --sample-bytes 16384
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset as wds

from infobatch_client.reading.reader import ShardReader
from infobatch_client.shards.index_store import index_shards
from infobatch_client.shards.urls import expand_shards

CHUNK = 4096


def make_shards(folder: Path, samples: int, sample_bytes: int, per_shard: int) -> None:
    """Writes shards of jpg + cls samples of random bytes."""
    data = np.random.default_rng(0).bytes(sample_bytes + 997)
    for shard, first in enumerate(range(0, samples, per_shard)):
        with tarfile.open(folder / f"bench-{shard:05d}.tar", "w") as archive:
            for number in range(first, min(first + per_shard, samples)):
                start = number % 997
                for name, body in (
                    (f"{number:08d}.jpg", data[start : start + sample_bytes]),
                    (f"{number:08d}.cls", b"%d" % (number % 1000)),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(body)
                    archive.addfile(member, io.BytesIO(body))


def read_indexed(reader: ShardReader, order: np.ndarray) -> int:
    """Reads samples in the order of `order`, in chunks; returns their number."""
    weights = np.ones(CHUNK, dtype=np.float32)
    parts = [order[at : at + CHUNK] for at in range(0, len(order), CHUNK)]
    count = 0
    for _ in reader.samples((part, weights[: len(part)]) for part in parts):
        count += 1
    return count


def read_webdataset(urls: list[str], kept: np.ndarray) -> int:
    """Reads all samples; returns the number of kept ones."""
    count = 0
    for keep, _ in zip(kept.tolist(), wds.WebDataset(urls, shardshuffle=False), strict=True):
        count += keep
    return count


def measure(runs: dict[str, Callable[[], int]], repetitions: int) -> dict[str, list[float]]:
    """Samples per second of each reader; the readers alternate."""
    for run in runs.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            start_s = time.perf_counter()
            count = run()
            rates[name].append(count / (time.perf_counter() - start_s))
    return rates


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--sample-bytes", type=int, default=16384)
    parser.add_argument("--samples-per-shard", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--folder", help="write the shards in this folder instead of the default for temporary files")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        make_shards(Path(folder), arguments.samples, arguments.sample_bytes, arguments.samples_per_shard)
        urls = expand_shards(folder)
        reader = ShardReader(index_shards(urls, progress=False))
        rng = np.random.default_rng(1)
        results: dict[str, dict[str, float]] = {}
        for keep in (100, 50):
            kept = np.arange(arguments.samples) >= 0 if keep == 100 else rng.random(arguments.samples) < 0.5
            in_order = np.flatnonzero(kept)
            shuffled = rng.permutation(in_order)
            rates = measure(
                {
                    "webdataset": lambda kept=kept: read_webdataset(urls, kept),
                    "indexed, sequential": lambda order=in_order: read_indexed(reader, order),
                    "indexed, window order": lambda order=shuffled: read_indexed(reader, order),
                },
                arguments.repetitions,
            )
            medians = {name: statistics.median(values) for name, values in rates.items()}
            for name, rate in medians.items():
                ratio = rate / medians["webdataset"]
                results[f"{name}, keep {keep} %"] = {
                    "kept_samples_per_s": round(rate),
                    "us_per_sample": round(1e6 / rate, 2),
                    "ratio": round(ratio, 2),
                }
    if arguments.json:
        print(json.dumps({"arguments": vars(arguments), "results": results}))
        return
    print(f"{arguments.samples} samples of {arguments.sample_bytes} B jpg + cls, medians of {arguments.repetitions}")
    print(f"{'reader':36} {'kept samples/s':>14} {'µs/sample':>10} {'ratio':>7}")
    for name, row in results.items():
        print(f"{name:36} {row['kept_samples_per_s']:>14,} {row['us_per_sample']:>10} {row['ratio']:>6}×")


if __name__ == "__main__":
    main()
