"""What a plan costs: threshold and draw, as multiples of one pass that only takes the mean of the scores.

    python benchmarks/planning.py --samples 100000000
    python benchmarks/planning.py --json

A multiple compares machines better than seconds do. The unit is `scores[block].mean(dtype=float64)` over blocks of
2²⁰; the figures are medians of `--repeats` rounds, one thread each. The last column is how far the process's peak
memory rose over what the score table and the finished plan hold: the working memory, measured in a run of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from infobatch_stream.plan.order_params import OrderParams
from infobatch_stream.planner import draw_plan
from infobatch_stream.pruning.policies import make_policy
from infobatch_stream.pruning.schedule import Schedule
from infobatch_stream.pruning.threshold import mean_threshold
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.scores.table import ScoreTable

UNIT_BLOCK = 2**20
SHARD_SAMPLES = 10_000
POLICIES: dict[str, tuple[str, dict[str, str]]] = {
    "threshold + Bernoulli draw": ("infobatch", {}),
    "threshold + exact draw": ("infobatch", {"draw": "exact"}),
    "prune_fraction=0.25": ("infobatch", {"prune_fraction": "0.25"}),
    "prune_fraction=0.6 (lowest scores)": ("infobatch", {"prune_fraction": "0.6"}),
    "levels 0.20:0.75,0.85:0.5": ("levels", {"levels": "0.20:0.75,0.85:0.5"}),
    "random": ("random", {}),
}


def make_table(num_samples: int) -> ScoreTable:
    """A table in which one sample in 64 has no score."""
    table = ScoreTable(num_samples)
    random = np.random.default_rng(0)
    for start in range(0, num_samples, UNIT_BLOCK):
        block = table.score[start : start + UNIT_BLOCK]
        block[:] = random.standard_exponential(len(block), dtype=np.float32)
        block[::64] = np.nan
    return table


def make_spec(num_samples: int, policy: str, settings: dict[str, str]) -> RunSpec:
    """A run over shards of SHARD_SAMPLES."""
    full, rest = divmod(num_samples, SHARD_SAMPLES)
    sizes = np.array([SHARD_SAMPLES] * full + [rest] * (rest > 0), np.int64)
    return RunSpec(
        run="benchmark",
        manifest_fingerprint=bytes(32),
        shard_sizes=sizes,
        schedule=Schedule(epochs=100),
        seed=0,
        policy=make_policy(policy, **settings),
        order=OrderParams(lanes=1, stripe=1024, window_shards=8),
    )


def median_s(call: Callable[[], object], repeats: int) -> float:
    """Median wall time, after one call that doesn't count."""
    call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def unit(score: npt.NDArray[np.float32]) -> None:
    """The pass that everything is compared with."""
    for start in range(0, len(score), UNIT_BLOCK):
        score[start : start + UNIT_BLOCK].mean(dtype=np.float64)


def peak_bytes() -> int:
    """The most memory that this process has had since it began to run this program (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def working_bytes(num_samples: int, name: str) -> int:
    """How far drawing one plan raises the peak of a process over table and plan."""
    table = make_table(num_samples)
    spec = make_spec(num_samples, *POLICIES[name])
    before = peak_bytes()
    plan = draw_plan(spec, table, run_id=bytes(16), generation=1, epoch=1)
    held = plan.keep_bits.nbytes + (0 if plan.class_plane is None else plan.class_plane.nbytes)
    return max(0, peak_bytes() - before - held)


def measure(num_samples: int, repeats: int) -> dict[str, object]:
    """Every figure, as plain values."""
    table = make_table(num_samples)
    mean_s = median_s(lambda: unit(table.score), repeats)
    rows: dict[str, dict[str, float]] = {
        "threshold": {"multiple": median_s(lambda: mean_threshold(table.score), repeats) / mean_s}
    }
    for name, (policy, settings) in POLICIES.items():
        spec = make_spec(num_samples, policy, settings)

        def draw(spec: RunSpec = spec) -> object:
            return draw_plan(spec, table, run_id=bytes(16), generation=1, epoch=1)

        rows[name] = {"multiple": median_s(draw, repeats) / mean_s}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in POLICIES:
            rows[name]["working_mib"] = pool.apply(working_bytes, (num_samples, name)) / 2**20
    return {
        "samples": num_samples,
        "repeats": repeats,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "mean_ns_per_sample": mean_s / num_samples * 1e9,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What a plan costs, as multiples of the mean of the scores.")
    parser.add_argument("--samples", type=int, default=10**7, help="N (default 10,000,000)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, of which the median counts (default 5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    if args.samples < UNIT_BLOCK:
        parser.error(f"--samples {args.samples} is under {UNIT_BLOCK}, one block of the unit")
    found = measure(args.samples, args.repeats)
    if args.json:
        print(json.dumps(found, indent=2))
        return
    print(f"N = {args.samples:,}; one mean = {found['mean_ns_per_sample']:.2f} ns a sample; numpy {found['numpy']}")
    print(f"{'':36}{'× mean':>8}{'working MiB':>14}")
    rows = found["rows"]
    assert isinstance(rows, dict)
    for name, row in rows.items():
        memory = f"{row['working_mib']:14.0f}" if "working_mib" in row else ""
        print(f"{name:36}{row['multiple']:8.1f}{memory}")


if __name__ == "__main__":
    main()
